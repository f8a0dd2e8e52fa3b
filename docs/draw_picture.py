"""Draw docs/img/deepseek-v3.png, the README's picture, with the tool itself; 64 colours keep it small."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from moesim.reports.figures.step import write_figure
from moesim.sim.train.predict import predict_train

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Predict the example, draw it, reduce its colours."""
    prediction = predict_train(ROOT / "examples" / "deepseek-v3-h800.yaml", check_memory=False)
    with TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.png"
        write_figure(prediction, raw)
        content = BytesIO(raw.read_bytes())
    target = ROOT / "docs" / "img" / "deepseek-v3.png"
    target.parent.mkdir(exist_ok=True)
    Image.open(content).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(target, optimize=True)


if __name__ == "__main__":
    main()

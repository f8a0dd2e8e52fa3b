"""The routing recorder on a small real model: trained on real text, with and without a balancing loss."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesim.traces.routing import BadTrace, Routing, load_counts

torch = pytest.importorskip("torch", reason="the recorder watches torch models")

EXPERTS, TOP_K, LAYERS, WIDTH = 8, 2, 2, 32


def text() -> bytes:
    """Documentation strings of modules of the standard library."""
    import argparse
    import asyncio.events
    import collections
    import datetime
    import decimal
    import pathlib
    import subprocess
    import unittest.case

    docstrings = []
    for module in (argparse, asyncio.events, collections, datetime, decimal, pathlib, subprocess, unittest.case):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                docstrings.append(ast.get_docstring(node) or "")
    return "\n".join(docstrings).encode("ascii", "ignore")


class ExpertBlock(torch.nn.Module):  # type: ignore[misc]  # torch is not read by mypy
    """Named as in Hugging Face's Mixtral: a gate and a list of experts."""

    def __init__(self) -> None:
        super().__init__()
        self.top_k = TOP_K
        self.gate = torch.nn.Linear(WIDTH, EXPERTS, bias=False)
        self.experts = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(EXPERTS))
        self.balance: Any = None

    def forward(self, x: Any) -> Any:
        shares = self.gate(x).softmax(dim=-1)
        weights, picks = shares.topk(TOP_K, dim=-1)
        taken = torch.zeros_like(shares).scatter(1, picks, 1.0)
        self.balance = EXPERTS * (taken.mean(0) * shares.mean(0)).sum()  # Switch Transformer's loss
        mask = torch.zeros_like(shares).scatter(1, picks, weights)
        every = torch.stack([torch.relu(expert(x)) for expert in self.experts], dim=1)
        return x + (every * mask[:, :, None]).sum(dim=1)


class Reader(torch.nn.Module):  # type: ignore[misc]  # torch is not read by mypy
    """Predicts the next byte from the four before it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(128, WIDTH // 4)
        self.blocks = torch.nn.ModuleList(ExpertBlock() for _ in range(LAYERS))
        self.head = torch.nn.Linear(WIDTH, 128)

    def forward(self, names: Any) -> Any:
        x = self.table(names).flatten(1)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def trained(balance: float) -> tuple[Reader, float, Any]:
    """A model after 150 steps, its last loss, and text to read."""
    torch.manual_seed(0)
    data = torch.tensor(list(text()))
    windows = data.unfold(0, 5, 1)
    model = Reader()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    loss = torch.zeros(())
    for _ in range(150):
        batch = windows[torch.randint(len(windows), (256,))]
        loss = torch.nn.functional.cross_entropy(model(batch[:, :4]), batch[:, 4])
        optimizer.zero_grad()
        (loss + balance * sum(block.balance for block in model.blocks)).backward()
        optimizer.step()
    return model, float(loss.detach()), windows[:2048]


def recorded(model: Reader, windows: Any, path: Path) -> Any:
    from moesim.calibrate.measure.routing import RoutingRecorder

    with RoutingRecorder(model) as recorder, torch.no_grad():
        for part in windows.split(1024):
            model(part[:, :4])
            recorder.end_step()
    assert recorder.counts().shape == (2, LAYERS, EXPERTS)
    recorder.save(path)
    return load_counts(path).sum(axis=0)


def test_a_balancing_loss_shows_in_what_is_recorded(tmp_path: Path) -> None:
    """Real training on real text: the loss falls, and without the balancing loss some experts take far more."""
    imbalance = {}
    for balance in (0.0, 0.1):
        model, loss, windows = trained(balance)
        counts = recorded(model, windows, tmp_path / "routing.npz")
        assert loss < 3.0  # nats per byte; guessing takes log(128) = 4.9
        assert (counts.sum(axis=1) == len(windows) * TOP_K).all()  # every pair of every token was seen
        imbalance[balance] = float((counts.max(axis=1) / counts.mean(axis=1)).mean())  # busiest expert over the mean
    assert imbalance[0.1] < 0.8 * imbalance[0.0]
    assert 1.0 <= imbalance[0.1] < 1.6


def test_recorded_counts_are_a_routing_of_the_simulator(tmp_path: Path) -> None:
    model, _, windows = trained(0.0)
    file = tmp_path / "routing.npz"
    counts = recorded(model, windows, file)
    shares = Routing(kind="counts", counts_file=str(file)).load_popularity(LAYERS, EXPERTS)
    assert np.allclose(shares, counts / counts.sum(axis=1, keepdims=True))


def test_hooks_are_gone_afterwards_and_a_function_may_choose(tmp_path: Path) -> None:
    from moesim.calibrate.measure.routing import RoutingRecorder

    model = Reader()
    names = torch.zeros((3, 4), dtype=torch.long)
    first = RoutingRecorder(model, choose=lambda block, output: torch.full((len(output), 1), 5))
    with first:
        model(names)
    model(names)
    assert first.counts().sum() == 3 * LAYERS and (first.counts()[..., 5] == 3).all()


def test_models_without_experts_and_unknown_top_k_are_refused() -> None:
    from moesim.calibrate.measure.routing import RoutingRecorder

    with pytest.raises(BadTrace, match="holds no module with a gate or router"):
        RoutingRecorder(torch.nn.Linear(2, 2))
    model = Reader()
    del model.blocks[0].top_k
    with pytest.raises(BadTrace, match="does not say its top-k"), RoutingRecorder(model):
        model(torch.zeros((1, 4), dtype=torch.long))
    with pytest.raises(BadTrace, match="nothing was recorded"):
        RoutingRecorder(Reader()).counts()

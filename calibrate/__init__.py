"""What this machine really takes, and how wrong we are."""

if __name__ == "calibrate":  # found in the root of a checkout, beside the package that users import
    raise ImportError("calibrate/ is a room of moesim: write `from moesim import ...` or `-m moesim.calibrate...`")

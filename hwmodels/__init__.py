"""What the hardware is, and how long one piece of work or one transfer takes on it."""

if __name__ == "hwmodels":  # found in the root of a checkout, beside the package that users import
    raise ImportError("hwmodels/ is a room of moesim: write `from moesim import ...` or `-m moesim.hwmodels...`")

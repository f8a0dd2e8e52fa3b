"""What a model computes, where each piece runs, when everything happens, and which layout is best."""

if __name__ == "sim":  # found in the root of a checkout, beside the package that users import
    raise ImportError("sim/ is a room of moesim: write `from moesim import ...` or `-m moesim.sim...`")

"""What the outside world sends: requests, and which expert each token picks."""

if __name__ == "traces":  # found in the root of a checkout, beside the package that users import
    raise ImportError("traces/ is a room of moesim: write `from moesim import ...` or `-m moesim.traces...`")

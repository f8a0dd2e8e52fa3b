"""What a person sees: tables, figures, timelines, the command line."""

if __name__ == "reports":  # found in the root of a checkout, beside the package that users import
    raise ImportError("reports/ is a room of moesim: write `from moesim import ...` or `-m moesim.reports...`")

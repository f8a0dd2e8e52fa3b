"""What a person sees: tables, figures, timelines, the command line."""

"""Files: what comes from outside is read here, with care, and what is written is whole or not there."""

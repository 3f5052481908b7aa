"""The configuration file: one frozen typed model, and all its problems at once."""

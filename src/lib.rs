//! Owns the workspace tests and examples; has no code of its own but what `scripts/check.sh` runs.

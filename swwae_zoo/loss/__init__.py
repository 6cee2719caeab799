"""The losses: one table of terms, and eq. (1)."""

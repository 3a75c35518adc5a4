"""The border: what users have, to trajectories, to lagged pairs, to splits without leakage."""

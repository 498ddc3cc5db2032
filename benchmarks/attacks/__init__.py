"""What the package is attacked with, a kind a file; ``attack.py`` runs them."""

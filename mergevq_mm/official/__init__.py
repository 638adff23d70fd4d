"""The authors' release: its files, and the names of its weights, to ours and back."""

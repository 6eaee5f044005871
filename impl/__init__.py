"""The running system. Imports nothing of spec, model or proofs: it stands on its own."""

"""Claims on a booting machine: a snapshot of the rules' state after every logged step, and the claims on it."""

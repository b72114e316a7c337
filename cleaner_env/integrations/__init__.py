"""The environment and SAAR inside the trainers of others: a module and an extra for each."""

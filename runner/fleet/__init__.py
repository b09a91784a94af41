"""One plan over many databases: targets, waves, budgets of clusters. Each member is an ordinary run."""

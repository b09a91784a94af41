"""Files for other engines: a plan as objects of Kubernetes and of Argo Workflows, in plain YAML."""

"""The retrieval service: the wire around `tandem_core.retrieval_pipeline`, nothing else."""

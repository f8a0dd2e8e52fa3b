"""Deployments as what starts them: command lines, YAML of engines, manifests."""

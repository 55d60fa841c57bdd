//go:build tools

// Package tools keeps the modules of programs that are built unchanged in go.mod.
package tools

import (
	_ "github.com/rancher/local-path-provisioner"
	_ "helm.sh/helm/v3/cmd/helm"
)

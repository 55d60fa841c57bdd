//go:build tools

// Package tools keeps the module of a program that is built unchanged in go.mod.
package tools

import (
	_ "github.com/prometheus/prometheus/cmd/prometheus"
)

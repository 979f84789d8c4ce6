// Package kubetools keeps the modules in go.mod of which the tests read files, not code: the CRDs of Istio and the Gateway API.
package kubetools

import (
	_ "istio.io/api/annotation"
	_ "sigs.k8s.io/gateway-api/pkg/consts"
)

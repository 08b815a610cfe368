// Names the Gateway API whose definition of an HTTPRoute the tests install. Nothing of it is compiled.
module slipway.dev/tests/gateway-api

go 1.24.0

require sigs.k8s.io/gateway-api v1.4.1

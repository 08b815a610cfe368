// Renders a chart to standard output, as `helm template` does, with the engine that helm has.
package main

import (
	"fmt"
	"os"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/strvals"
)

func main() {
	chart, err := loader.Load(os.Args[1])
	if err == nil {
		err = render(chart)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func render(chart *chart.Chart) error {
	release := chartutil.ReleaseOptions{Name: "slipway-agents", Namespace: "slipway-agents", Revision: 1, IsInstall: true}
	given := map[string]any{}
	for _, setting := range os.Args[2:] {
		if err := strvals.ParseInto(setting, given); err != nil {
			return err
		}
	}
	values, err := chartutil.ToRenderValues(chart, given, release, chartutil.DefaultCapabilities)
	if err != nil {
		return err
	}
	files, err := engine.Render(chart, values)
	for name, text := range files {
		fmt.Printf("---\n# %s\n%s\n", name, text)
	}
	return err
}

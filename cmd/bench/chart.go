package main

import (
	"image/color"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

func peerColor(peer string) color.Color {
	return map[string]color.Color{
		filestorage: color.RGBA{R: 0x4e, G: 0x79, B: 0xa7, A: 0xff},
		zeo:         color.RGBA{R: 0xf2, G: 0x8e, B: 0x2b, A: 0xff},
		postgresql:  color.RGBA{R: 0x59, G: 0xa1, B: 0x4f, A: 0xff},
		sqlite:      color.RGBA{R: 0xb0, G: 0x7a, B: 0xa1, A: 0xff},
		neo:         color.RGBA{R: 0xe1, G: 0x57, B: 0x59, A: 0xff},
	}[peer]
}

// gains are how many times better ours is than a peer's in each metric; 0 where there is nothing to compare.
func gains(rows []metric, peer string) []float64 {
	out := make([]float64, len(rows))
	for i, m := range rows {
		ratio := m.PerPeer[peer]
		switch {
		case ratio == 0:
		case largerIsBetter(m.Name):
			out[i] = ratio
		default:
			out[i] = 1 / ratio
		}
	}
	return out
}

// drawChart writes the gains, a point for each metric and peer on a logarithmic scale; the file's ending says what kind.
func drawChart(file string, r *report) error {
	p := plot.New()
	p.Title.Text = "zodb_dht: times better than each peer (right of 1 is better)"
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	p.Add(plotter.NewGrid())
	names := make([]string, len(r.Metrics))
	for i, m := range r.Metrics {
		names[len(names)-1-i] = m.Name
	}
	p.NominalY(names...)
	low, high := 0.5, 2.0
	for _, peer := range r.Storages {
		if peer == dht {
			continue
		}
		var points plotter.XYs
		for i, gain := range gains(r.Metrics, peer) {
			if gain > 0 {
				points = append(points, plotter.XY{X: gain, Y: float64(len(names) - 1 - i)})
				low, high = min(low, gain), max(high, gain)
			}
		}
		if len(points) == 0 {
			continue
		}
		s, err := plotter.NewScatter(points)
		if err != nil {
			return err
		}
		s.Color, s.Radius, s.Shape = peerColor(peer), vg.Points(4), draw.CircleGlyph{}
		p.Add(s)
		p.Legend.Add(peer, s)
	}
	one, err := plotter.NewLine(plotter.XYs{{X: 1, Y: -0.5}, {X: 1, Y: float64(len(names)) - 0.5}})
	if err != nil {
		return err
	}
	p.Add(one)
	p.X.Min, p.X.Max = low/1.2, high*1.2
	p.Legend.Top, p.Legend.Left = true, true
	return p.Save(9*vg.Inch, vg.Length(2+0.28*float64(len(names)))*vg.Inch, file)
}

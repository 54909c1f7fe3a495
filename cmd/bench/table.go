package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// unit is what a metric's figures are in; its name tells.
func unit(metric string) string {
	switch {
	case metric == "fsyncs-per-commit", metric == "background-fsyncs":
		return "fsyncs"
	case metric == "bytes-per-object":
		return "B"
	case strings.HasPrefix(metric, "blob-"):
		return "MB/s"
	case strings.HasPrefix(metric, "pack-"):
		return map[string]string{"time": "s", "memory": "MB", "p99": "ms", "left": "share"}[metric[strings.LastIndex(metric, "-")+1:]]
	case strings.HasPrefix(metric, "catalog-"), strings.HasPrefix(metric, "import"), strings.HasPrefix(metric, "export"):
		return "s"
	case strings.HasPrefix(metric, "commits-"):
		return "/s"
	case strings.HasPrefix(metric, "open-rss-"), strings.HasPrefix(metric, "open-peak-"):
		return "MB"
	case strings.HasPrefix(metric, "commit-"), strings.HasPrefix(metric, "open-"):
		return "ms"
	}
	return "µs"
}

// number prints three digits that count.
func number(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// cells are the rows of the table of figures: beside a peer's figure stands ours divided by it.
func (r *report) cells() [][]string {
	rows := [][]string{append([]string{"", "unit"}, r.Storages...)}
	for _, m := range r.Metrics {
		row := []string{m.Name, m.Unit}
		for _, s := range r.Storages {
			value, ok := m.Median[s]
			ratio, compared := m.PerPeer[s]
			switch {
			case !ok:
				row = append(row, "–")
			case compared:
				row = append(row, fmt.Sprintf("%s (%s)", number(value), number(ratio)))
			default:
				row = append(row, number(value))
			}
		}
		rows = append(rows, row)
	}
	return rows
}

func (r *report) verdictCells() [][]string {
	rows := [][]string{{"target", "against", "wanted", "measured", ""}}
	for _, v := range r.Verdicts {
		word := "met"
		if !v.Met {
			word = "missed"
		}
		against := v.Peer
		if against == "" {
			against = "itself"
		}
		rows = append(rows, []string{v.Metric, against, v.Target, number(v.Ratio), word})
	}
	return rows
}

func (r *report) caption() string {
	kind := ""
	if r.Quick {
		kind = " Quick sizes: these figures say that it runs, not how fast."
	}
	return fmt.Sprintf("Median of %d rounds on %d CPUs; in brackets ours divided by the peer's.%s", r.Rounds, r.CPUs, kind)
}

// text prints the tables for a terminal.
func (r *report) text(w io.Writer) error {
	for _, rows := range [][][]string{r.cells(), r.verdictCells()} {
		if len(rows) == 1 {
			continue
		}
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, row := range rows {
			if _, err := fmt.Fprintln(t, strings.Join(row, "\t")); err != nil {
				return err
			}
		}
		if err := t.Flush(); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
	}
	for _, s := range r.Skipped {
		if _, err := fmt.Fprintf(w, "skipped: %s: %s\n", s.What, s.Why); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintln(w, r.caption())
	return err
}

// markdown is the same for README.
func (r *report) markdown() string {
	var b strings.Builder
	for _, rows := range [][][]string{r.cells(), r.verdictCells()} {
		if len(rows) == 1 {
			continue
		}
		for i, row := range rows {
			b.WriteString("| " + strings.Join(row, " | ") + " |\n")
			if i == 0 {
				b.WriteString(strings.Repeat("|---", len(row)) + "|\n")
			}
		}
		b.WriteByte('\n')
	}
	b.WriteString(r.caption() + "\n")
	for _, s := range r.Skipped {
		fmt.Fprintf(&b, "Skipped: %s: %s.\n", s.What, s.Why)
	}
	return b.String()
}

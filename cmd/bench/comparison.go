package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// comparison runs the plan: it fills databases when a job first needs them, and keeps the figures.
type comparison struct {
	py      python
	dir     string // of all databases, removed at the end
	sizes   sizes
	stores  map[string]store
	pg      *postgres
	filled  map[string]bool // storage/database
	catalog struct {
		path    string
		objects float64
	}
	soiled  map[int]string // objects, and where the FileStorage is
	figures figures
	order   []string // metrics, as they were first measured
	report  *report
}

// open finds out which storages can be measured, and starts PostgreSQL if it is one of them.
func (c *comparison) open(ctx context.Context, storages []string) error {
	if _, err := os.Stat(c.py.exe); err != nil {
		return fmt.Errorf("%s is missing: run ./build.sh bench, or give --python: %w", c.py.exe, err)
	}
	for _, s := range storages {
		if err := c.imports(ctx, modules(s)); err != nil {
			if s == dht || ctx.Err() != nil {
				return fmt.Errorf("%w; run ./build.sh bench, or %s -m pip install -r tests/bench/requirements.txt and the wheel", err, c.py.exe)
			}
			if s == neo {
				err = fmt.Errorf("%w; %s", err, neoHint)
			}
			c.skip(s, err)
			continue
		}
		d := directories{s, c.dir}
		switch s {
		case zeo:
			c.stores[s] = zeoServers{d, c.py.exe}
		case neo:
			c.stores[s] = neoClusters{d, c.py.exe}
		case postgresql:
			pg, err := startPostgres(ctx, filepath.Join(c.dir, "pg"), c.tmpfs())
			if err != nil {
				c.skip(s, err)
				continue
			}
			c.pg, c.stores[s] = pg, pg
		default:
			c.stores[s] = d
		}
		c.report.Storages = append(c.report.Storages, s)
	}
	if len(c.report.Storages) == 0 {
		return errors.New("no storage is left to measure")
	}
	return c.versions(ctx)
}

func (c *comparison) skip(what string, why error) {
	c.report.Skipped = append(c.report.Skipped, skip{what, why.Error()})
}

// tmpfs is where PostgreSQL's temporary tables go: on a disk RelStorage pays some truncates of them for each commit, which
// would be a measurement of the file system.
func (c *comparison) tmpfs() string {
	const shm = "/dev/shm"
	if info, err := os.Stat(shm); err == nil && info.IsDir() {
		return shm
	}
	c.skip("temporary tables of postgresql on a tmpfs", errors.New(shm+" is missing; its commits are slower for it"))
	return ""
}

func (c *comparison) imports(ctx context.Context, modules []string) error {
	cmd := child(ctx, syscall.SIGKILL, c.py.exe, "-c", "import "+strings.Join(modules, ", "))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: import %s: %w: %s", c.py.exe, strings.Join(modules, ", "), err, tail(string(out)))
	}
	return nil
}

// versions notes what was measured.
func (c *comparison) versions(ctx context.Context) error {
	const script = `
import importlib.metadata as m, json, platform
found = {"Python": platform.python_version()}
for name in ("zodb_dht", "ZODB", "ZEO", "RelStorage", "psycopg2-binary", "neoppod", "persistent", "transaction"):
    try:
        found[name] = m.version(name)
    except m.PackageNotFoundError:
        pass
print(json.dumps(found))`
	out, err := child(ctx, syscall.SIGKILL, c.py.exe, "-c", script).Output()
	if err != nil {
		return fmt.Errorf("%s: %w", c.py.exe, err)
	}
	return json.Unmarshal(out, &c.report.Versions)
}

// possible drops the workloads that this machine can't run, and says what is left out and why.
func (c *comparison) possible(ctx context.Context, ws []workload) []workload {
	var out []workload
	for _, w := range ws {
		if w.traced {
			if err := canTrace(ctx); err != nil {
				c.skip(w.name, err)
				continue
			}
		}
		for _, s := range c.report.Storages {
			if !w.runsOn(s) {
				what := w.name
				if w.killed {
					what += " after kill -9"
				}
				if reason := (skip{what + " of " + s, w.why}); !slices.Contains(c.report.Skipped, reason) {
					c.report.Skipped = append(c.report.Skipped, reason)
				}
			}
		}
		out = append(out, w)
	}
	return out
}

func (c *comparison) run(ctx context.Context, a *app, jobs []job) error {
	next, end := a.progress(len(jobs))
	defer end()
	for _, j := range jobs {
		next(fmt.Sprintf("round %d: %s of %s", j.round+1, j.workload.name, j.storage))
		if err := c.measure(ctx, j); err != nil {
			return fmt.Errorf("%s of %s, round %d: %w", j.workload.name, j.storage, j.round+1, err)
		}
	}
	return nil
}

// measure runs one job.
func (c *comparison) measure(ctx context.Context, j job) (err error) {
	st, w := c.stores[j.storage], j.workload
	database, parameters := w.database, w.parameters
	if database == "" {
		source, err := c.source(ctx, w.source)
		if err != nil {
			return err
		}
		database, parameters = "imported", with(parameters, "source", source)
		if err := st.remove(ctx, database); err != nil {
			return err
		}
	} else if err := c.fill(ctx, j.storage, database); err != nil {
		return err
	}
	if w.exported {
		target := filepath.Join(c.dir, "exported")
		parameters = with(parameters, "target", target)
		defer func() { err = errors.Join(err, os.RemoveAll(target)) }()
	}
	if w.copied {
		from := database
		database += "-copy"
		if err := st.duplicate(ctx, from, database); err != nil {
			return err
		}
	}
	if w.killed {
		if err := c.kill(ctx, st, database); err != nil {
			return err
		}
	}
	var prefix []string
	trace := filepath.Join(c.dir, "trace")
	if w.traced {
		prefix = tracer(trace)
	}
	var before int64
	if w.copied {
		if before, err = st.size(ctx, database); err != nil {
			return err
		}
	}
	out, err := c.worker(ctx, st, database, prefix, w.worker, parameters, "")
	if err != nil {
		return err
	}
	for _, m := range out.metrics {
		c.add(m.metric, j.storage, m.value)
	}
	for note, value := range out.notes {
		c.report.Notes[w.name+"-"+note] = value
	}
	switch {
	case w.traced:
		return c.addSyncs(trace, j.storage, out.notes["commits"])
	case w.copied:
		return c.addLeft(ctx, st, database, j, before)
	case w.source == catalog:
		return c.addSize(ctx, st, database, j.storage)
	case w.source != "":
		return st.remove(ctx, database)
	}
	return nil
}

func (c *comparison) add(metric, storage string, value float64) {
	if c.figures[metric] == nil {
		c.order = append(c.order, metric)
	}
	c.figures.add(metric, storage, value)
}

// worker runs a worker on a database that is up meanwhile.
func (c *comparison) worker(ctx context.Context, st store, database string, prefix []string, name string, parameters map[string]any, until string) (_ output, err error) {
	spec, down, err := st.up(ctx, database)
	if err != nil {
		return output{}, err
	}
	defer func() { err = errors.Join(err, down()) }()
	return c.py.run(ctx, prefix, name, spec, parameters, until)
}

// fill makes a database that is not there yet; what it is named for is in it.
func (c *comparison) fill(ctx context.Context, storage, database string) error {
	key := storage + "/" + database
	if c.filled[key] {
		return nil
	}
	if database == noDatabase {
		return nil
	}
	name, parameters, err := c.filler(ctx, database)
	if err != nil {
		return err
	}
	st := c.stores[storage]
	if _, err := c.worker(ctx, st, database, nil, name, parameters, ""); err != nil {
		return err
	}
	c.filled[key] = true
	return st.settled(ctx, database)
}

// filler is the workload that makes a database.
func (c *comparison) filler(ctx context.Context, database string) (name string, parameters map[string]any, err error) {
	if database == catalog {
		err := c.buildCatalog(ctx)
		return "import", params("source", c.catalog.path), err
	}
	var n int
	if _, err := fmt.Sscanf(database, "soiled-%d", &n); err == nil {
		path, err := c.soil(ctx, n)
		return "import", params("source", path), err
	}
	if _, err := fmt.Sscanf(database, "singles-%d", &n); err == nil {
		return "fill", params("objects", n, "per_transaction", 1), nil
	}
	if _, err := fmt.Sscanf(database, "items-%d", &n); err != nil {
		return "", nil, fmt.Errorf("database %q: %w", database, err)
	}
	return "fill", params("objects", n), nil
}

// soil makes a FileStorage of copies of the catalog with about n objects, a fifth of them garbage, with old revisions, once.
func (c *comparison) soil(ctx context.Context, n int) (string, error) {
	if err := c.buildCatalog(ctx); err != nil || c.soiled[n] != "" {
		return c.soiled[n], err
	}
	path := filepath.Join(c.dir, fmt.Sprintf("soiled-%d", n))
	out, err := c.py.run(ctx, nil, "soil-catalog", map[string]any{"kind": filestorage, "path": path}, params("source", c.catalog.path, "objects", n), "")
	if err != nil {
		return "", err
	}
	c.soiled[n] = path
	for note, value := range out.notes {
		c.report.Notes[fmt.Sprintf("pack-%d-%s-before", n, note)] = value
	}
	return path, nil
}

// source is a FileStorage to import, made once.
func (c *comparison) source(ctx context.Context, name string) (string, error) {
	if name == catalog {
		err := c.buildCatalog(ctx)
		return c.catalog.path, err
	}
	path := filepath.Join(c.dir, name)
	if c.filled[path] {
		return path, nil
	}
	worker, parameters, err := c.filler(ctx, name)
	if err == nil {
		_, err = c.py.run(ctx, nil, worker, map[string]any{"kind": filestorage, "path": path}, parameters, "")
	}
	c.filled[path] = err == nil
	return path, err
}

// buildCatalog makes the catalog that all import, once.
func (c *comparison) buildCatalog(ctx context.Context) error {
	if c.catalog.path != "" {
		return nil
	}
	path := filepath.Join(c.dir, "catalog")
	out, err := c.py.run(ctx, nil, "build-catalog", map[string]any{"kind": filestorage, "path": path}, params("docs", c.sizes.docs), "")
	if err != nil {
		return err
	}
	c.catalog.path, c.catalog.objects = path, out.notes["objects"]
	c.report.Notes["catalog-documents"], c.report.Notes["catalog-objects"] = out.notes["documents"], out.notes["objects"]
	return nil
}

// kill lets a process commit, and ends it by kill -9 in the midst.
func (c *comparison) kill(ctx context.Context, st store, database string) error {
	_, err := c.worker(ctx, st, database, nil, "commit-forever", params("objects", 200, "count", 100), "committed")
	return err
}

func (c *comparison) addSyncs(trace, storage string, commits float64) (err error) {
	f, err := os.Open(trace)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // opened for reading
	n, background, err := countSyncs(f)
	if err == nil {
		c.add("fsyncs-per-commit", storage, float64(n)/commits)
		c.add("background-fsyncs", storage, float64(background)/commits)
	}
	return err
}

func (c *comparison) addSize(ctx context.Context, st store, database, storage string) error {
	size, err := st.size(ctx, database)
	if err != nil {
		return err
	}
	c.add("bytes-per-object", storage, float64(size)/c.catalog.objects)
	return st.remove(ctx, database)
}

// addLeft adds what share of a copied database's size a workload left, and removes it.
func (c *comparison) addLeft(ctx context.Context, st store, database string, j job, before int64) error {
	size, err := st.size(ctx, database)
	if err != nil {
		return err
	}
	if prefix, ok := j.workload.parameters["prefix"].(string); ok && before > 0 {
		c.add(prefix+"-left", j.storage, float64(size)/float64(before))
	}
	return st.remove(ctx, database)
}

// close ends PostgreSQL and removes the databases.
func (c *comparison) close(keep bool) error {
	var err error
	if c.pg != nil {
		err = c.pg.close()
	}
	if keep {
		return err
	}
	return errors.Join(err, os.RemoveAll(c.dir))
}

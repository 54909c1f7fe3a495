#!/usr/bin/env bash
# Builds, tests and shows zodb_dht. ./build.sh help
set -euo pipefail
cd "$(dirname "$0")"

LINT=v2.15.0
TAGS=pebblegozstd

die() { printf 'build.sh: %s\n' "$*" >&2; exit 1; }

need() { command -v "$1" >/dev/null || die "$1 was not found; install $2"; }

# The newest CPython from 3.10 on that runs; version managers leave names that do not.
python() {
  local p
  for p in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
    if "$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
      echo "$p"; return
    fi
  done
  die "no CPython 3.10 or newer with venv was found; install one (Debian: apt-get install python3 python3-venv python3-dev)"
}

tools() {
  need go "Go 1.26 or newer (https://go.dev/dl/)"
  local cc=${CC:-cc}
  need "${cc%% *}" "a C compiler (Debian: apt-get install gcc libc6-dev)"
}

# The virtualenv with the package and what `extras` names; made anew when its inputs changed.
venv() {
  tools
  local p; p=$(python)
  # Made by another one than PYTHON says: its stamps are not of this one.
  if [ -n "${PYTHON:-}" ] && [ -x .venv/bin/python ] && [ "$("$p" -V)" != "$(.venv/bin/python -V)" ]; then rm -rf .venv; fi
  [ -x .venv/bin/python ] || "$p" -m venv .venv
  mkdir -p build
  local stamp; stamp=$( (echo "$1"; cat pyproject.toml) | cksum)
  if [ "$(cat .venv/stamp-"$1" 2>/dev/null)" != "$stamp" ]; then
    .venv/bin/python -m pip install --quiet --upgrade pip setuptools wheel
    echo "installing what $1 needs ..." >&2
    .venv/bin/python - "$1" <<'PY' | xargs -d '\n' .venv/bin/python -m pip install --quiet
import sys
try:
    import tomllib
except ModuleNotFoundError:
    from pip._vendor import tomli as tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
print("\n".join(project["dependencies"] + project["optional-dependencies"][sys.argv[1]]))
PY
    echo "$stamp" > .venv/stamp-"$1"
  fi
}

wheel() {
  tools
  local p; p=$(python) # apart: where there is none, its message is the last one
  [ -x .venv/bin/python ] || "$p" -m venv .venv
  .venv/bin/python -m pip install --quiet --upgrade pip setuptools wheel
  rm -rf build/wheel build/bdist.* build/lib.*  # what an interrupted build left
  echo "building the extension and the wheel ..." >&2
  .venv/bin/python -m pip wheel --quiet --no-deps --no-build-isolation -w build/wheel .
  ls build/wheel/*.whl
}

install_wheel() {
  wheel >/dev/null
  .venv/bin/python -m pip install --quiet --force-reinstall --no-deps build/wheel/*.whl
}

case "${1:-help}" in
  demo)  venv demo; install_wheel; shift; exec .venv/bin/python -m zodb_dht.demo "$@" ;;
  test)
    venv test
    echo "== go vet, go test ==" >&2
    go vet -tags "$TAGS" ./...
    go test -tags "$TAGS" ./...
    install_wheel
    # It asks for CPython 3.12 and runs on older ones.
    .venv/bin/python -m pip install --quiet --ignore-requires-python --no-deps --pre zodb-convert==1.0.0b12
    echo "== pytest ==" >&2
    .venv/bin/python -m pytest -q tests ;;
  race)  need go "Go 1.26 or newer (https://go.dev/dl/)"; go test -race -tags "$TAGS" ./... ;;
  lint)
    venv test
    go install "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$LINT"
    lint=$(go env GOPATH)/bin/golangci-lint
    "$lint" run --build-tags "$TAGS" ./...
    # The extension's files need Python's headers, and its symbols stay open until an interpreter loads it: see setup.py.
    CGO_ENABLED=1 CGO_CFLAGS="-I$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["include"])')" \
      CGO_LDFLAGS_ALLOW='-Wl,.*' CGO_LDFLAGS=-Wl,--unresolved-symbols=ignore-all \
      "$lint" run --build-tags "$TAGS,python" ./bridge/...
    .venv/bin/ruff check python tests examples setup.py
    .venv/bin/ruff format --check python tests examples setup.py
    .venv/bin/mypy python/zodb_dht
    install_wheel
    .venv/bin/python -m mypy.stubtest zodb_dht._core ;;
  soak)
    venv test; install_wheel
    export ZODB_DHT_SOAK_ROUNDS="${2:-5000}"
    ZODB_DHT_SOAK_STEP=1 go test -tags "$TAGS" -timeout 0 -count 1 -v -run 'Kill9|WhicheverWrite' ./tests/crash
    .venv/bin/python -m pytest -q -s tests/crash ;;
  bench)
    shift
    [ $# -gt 0 ] || set -- compare
    if [ "$1" = compare ]; then
      venv test; install_wheel
      .venv/bin/python -m pip install --quiet -r tests/bench/requirements.txt
    else
      tools
    fi
    go build -tags "$TAGS" -o build/bench ./cmd/bench # go run would make every exit status 1
    exec build/bench "$@" ;;
  plone)
    install_wheel; shift
    .venv/bin/python tests/zope/run.py --json build/plone/life.json "$@"
    .venv/bin/python tests/zope/migrate.py
    .venv/bin/python tests/zope/times.py --json build/plone/times.json "$@" ;;
  plone-tests)    install_wheel; shift; .venv/bin/python tests/zope/suites.py "$@" ;;
  plone-buildout) install_wheel; .venv/bin/python tests/zope/buildout.py ;;
  wheel) wheel ;;
  clean) rm -rf .venv build dist python/*.egg-info python/zodb_dht/_core.abi3.* python/zodb_dht/_bin ;;
  help)
    cat <<'EOF'
./build.sh demo   build, install, and run a real catalog on a peer beside FileStorage
./build.sh test   every test, Go and Python
./build.sh race   the Go tests under the race detector
./build.sh lint   golangci-lint (the arrows, too), ruff, mypy --strict, stubtest
./build.sh soak [ROUNDS]   kill -9 a committing process, many times (5000)
./build.sh bench [ARGS]    the benchmark: compare (beside the other storages), core, help
./build.sh plone [STORAGE ...]   a Plone site: its life, checked, its move to a peer and back, its times
./build.sh plone-tests           ZODB's, ZCatalog's and plone.app.contenttypes' own tests on dht
./build.sh plone-buildout        examples/buildout, run
./build.sh wheel  the wheel, in build/wheel
./build.sh clean  remove what the others made
EOF
    ;;
  *) die "unknown: $1 (see ./build.sh help)" ;;
esac

#!/bin/sh
# Installs what the end-to-end tests need beside Go into .cache/ at the top of
# the repository: a Python environment (test server, pymongo) and the Node
# clients (mongodb, mongoose, mongosh), and the Java driver. Versions are those of
# the lock files. Quick when nothing changed. A missing python3, node, or java
# with mvn is named and skipped, since the tests that need it skip too; with
# CI=true it is an error.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cache=$here/../.cache
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
missing=0

lacking() {
	echo "setup: $1" >&2
	missing=1
}

# stamp FILE...: what tells one state of the lock files from another.
stamp() {
	cat "$@" | cksum
}

find_python() {
	for p in python3.13 python3.12 python3.11 python3; do
		if command -v "$p" >/dev/null 2>&1 &&
			"$p" -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
			echo "$p"
			return
		fi
	done
}

python_clients() {
	want="$(stamp "$here/python/requirements.txt")"
	if [ "$(cat "$cache/venv/.stamp" 2>/dev/null)" = "$want" ] && "$cache/venv/bin/python" -c '' 2>/dev/null; then
		return
	fi
	python=$(find_python)
	if [ -z "$python" ]; then
		lacking "no python3 from 3.11 to 3.13 (with venv): no SecantusDB test server, no pymongo tests"
		return
	fi
	echo "setup: Python environment in .cache/venv"
	rm -rf "$cache/venv"
	"$python" -m venv "$cache/venv" || {
		lacking "$python -m venv does not work (Debian: install python3-venv)"
		return
	}
	"$cache/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
		-r "$here/python/requirements.txt" || {
		lacking "the Python packages could not be installed"
		return
	}
	echo "$want" >"$cache/venv/.stamp"
}

node_clients() {
	# Node looks for packages beside the importing file and above, nowhere else.
	ln -sfn ../../.cache/node/node_modules "$here/node/node_modules"
	want="$(stamp "$here/node/package.json" "$here/node/package-lock.json" "$here/node/.npmrc")"
	if [ "$(cat "$cache/node/.stamp" 2>/dev/null)" = "$want" ]; then
		return
	fi
	if ! command -v node >/dev/null 2>&1 || ! command -v npm >/dev/null 2>&1 ||
		! node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)'; then
		lacking "no node from 20.19 on with npm: no mongoose, mongodb and mongosh tests"
		return
	fi
	echo "setup: Node clients in .cache/node"
	mkdir -p "$cache/node"
	rm -f "$cache/node/.stamp"
	cp "$here/node/package.json" "$here/node/package-lock.json" "$here/node/.npmrc" "$cache/node/"
	# Install scripts only build optional native parts that no test uses.
	(cd "$cache/node" && npm ci --ignore-scripts --loglevel=error) || {
		lacking "the Node packages could not be installed"
		return
	}
	echo "$want" >"$cache/node/.stamp"
}

java_driver() {
	want="$(stamp "$here/java/pom.xml")"
	if [ "$(cat "$cache/java/.stamp" 2>/dev/null)" = "$want" ]; then
		return
	fi
	# Erp.java is run as a source file, which takes the compiler of a JDK.
	if ! command -v javac >/dev/null 2>&1 || ! command -v mvn >/dev/null 2>&1; then
		lacking "no JDK of Java 17 or newer with mvn: no tests of the Java driver"
		return
	fi
	echo "setup: Java driver in .cache/java"
	rm -rf "$cache/java"
	mvn -q -B -f "$here/java/pom.xml" dependency:copy-dependencies -DoutputDirectory="$cache/java" || {
		lacking "the Java driver could not be installed"
		return
	}
	echo "$want" >"$cache/java/.stamp"
}

python_clients
node_clients
java_driver

if [ "$missing" = 1 ] && [ "${CI:-}" = true ]; then
	exit 1
fi

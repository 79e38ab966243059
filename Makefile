# Everything that is set up goes into .cache, which git ignores.
CACHE := $(CURDIR)/.cache
TAGS := -tags ferretdb_no_postgresql
GO ?= go
# A number of inputs: after a time, go test now and then takes its own deadline for a failure.
FUZZTIME ?= 200000x
# The versions are in the names of the binaries, so that a changed one is built anew.
LINT_VERSION := v2.12.2
VULN_VERSION := v1.8.0
LINT := $(CACHE)/bin/golangci-lint-$(LINT_VERSION)
VULN := $(CACHE)/bin/govulncheck-$(VULN_VERSION)

.PHONY: help build run bench profile setup test test-main test-demo test-long suites check vuln fuzz clean

help:            ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14

build:           ## .cache/bin/tenantry
	$(GO) build -o $(CACHE)/bin/tenantry ./cmd/tenantry

run: build       ## the proxy before an embedded server with a small sample; Ctrl-C ends it
	cd demo && $(GO) build $(TAGS) -o $(CACHE)/bin/tenantry-demo ./cmd/tenantry-demo
	$(CACHE)/bin/tenantry-demo --tenantry $(CACHE)/bin/tenantry $(ARGS)

bench: build     ## what tenantry costs per command; BENCH='-rounds 2 -for 500ms -only find-64' for a part
	$(GO) build -o $(CACHE)/bin/bench ./bench
	$(CACHE)/bin/bench -tenantry $(CACHE)/bin/tenantry -out $(CACHE)/bench $(BENCH)

# The parts in-process, for benchstat; the profile is of the whole plain path, server and client included.
profile:         ## CPU profile of the plain path, and the benchmarks of its parts
	mkdir -p $(CACHE)/bench
	$(GO) test -run '^$$' -bench Plain -benchtime 3s -cpuprofile $(CACHE)/bench/plain.pprof -o $(CACHE)/bench/proxy.test ./proxy
	$(GO) test -run '^$$' -bench 'Parse|Route|Patch|Merge' -count $(or $(COUNT),1) ./wire ./routing ./proxy
	$(GO) tool pprof -top -nodecount 40 $(CACHE)/bench/proxy.test $(CACHE)/bench/plain.pprof

setup:           ## test servers and real clients
	sh demo/setup.sh

test: setup test-main test-demo ## everything but the long runs

# The race detector does not see what io_uring hands over, and makes allocations of its own: what is about
# these runs without it, too.
test-main:       ## the proxy's own tests
	$(GO) vet ./...
	$(GO) test -race ./...
	$(GO) test -run 'Ring|Turn|Loop|Start|Alloc' ./wire ./backend ./proxy

# The proxy that these run is no input of theirs to go test: what it remembers says nothing of it.
test-demo:       ## real clients, directly and through the proxy
	cd demo && $(GO) vet $(TAGS) ./... && $(GO) test $(TAGS) -count=1 -timeout 25m ./...

fuzz:            ## each fuzz target for FUZZTIME
	@set -e; for pkg in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$pkg | grep ^Fuzz); do \
			echo "fuzz $$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$pkg; \
		done; \
	done

test-long: export TENANTRY_LONG = 1
test-long: test fuzz ## the tests at length, and the fuzz targets

suites: build setup ## pymongo's own tests, directly and through the proxy (MODULES=test_gridfs for some)
	$(CACHE)/venv/bin/python demo/suites/run.py $(CACHE)/bin/tenantry $(MODULES)

check: $(LINT)   ## vet, format, linters, lockfiles, known vulnerabilities
	$(GO) vet ./...
	$(GO) mod tidy -diff
	$(LINT) run ./...
	cd demo && $(GO) vet $(TAGS) ./... && $(GO) mod tidy -diff
	cd demo && $(LINT) run --config ../.golangci.yml --build-tags $(lastword $(TAGS)) ./...
	@$(MAKE) --no-print-directory vuln

# govulncheck ends with 3 where it found something. Without its database there is nothing to say
# about the code, so that goes on; every other failure is one.
vuln: $(VULN)    ## known vulnerabilities, where their database is reachable
	@$(VULN) ./... >$(CACHE)/vuln.txt 2>&1 && cat $(CACHE)/vuln.txt || { code=$$?; \
		if [ $$code != 3 ] && grep -q 'fetching vulnerabilities' $(CACHE)/vuln.txt; \
		then echo "vulnerabilities not checked: their database is not reachable"; \
		else cat $(CACHE)/vuln.txt; exit 1; fi; }

$(LINT):
	GOBIN=$(CACHE)/bin $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	mv $(CACHE)/bin/golangci-lint $@

$(VULN):
	GOBIN=$(CACHE)/bin $(GO) install golang.org/x/vuln/cmd/govulncheck@$(VULN_VERSION)
	mv $(CACHE)/bin/govulncheck $@

clean:           ## remove .cache
	rm -rf $(CACHE)

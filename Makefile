# Everything that is set up goes into .cache, which git ignores.
CACHE := $(CURDIR)/.cache
TAGS := -tags ferretdb_no_postgresql
GO ?= go
FUZZTIME ?= 20s

.PHONY: help build run setup test test-main test-demo test-long check fuzz clean

help:            ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14

build:           ## .cache/bin/tenantry
	$(GO) build -o $(CACHE)/bin/tenantry ./cmd/tenantry

run: build       ## the proxy before an embedded server with a small sample; Ctrl-C ends it
	cd demo && $(GO) build $(TAGS) -o $(CACHE)/bin/tenantry-demo ./cmd/tenantry-demo
	$(CACHE)/bin/tenantry-demo --tenantry $(CACHE)/bin/tenantry

setup:           ## test servers and real clients
	sh demo/setup.sh

test: setup test-main test-demo ## everything but the long runs

test-main:       ## the proxy's own tests
	$(GO) vet ./...
	$(GO) test -race ./...

test-demo:       ## real clients, directly and through the proxy
	cd demo && $(GO) vet $(TAGS) ./... && $(GO) test $(TAGS) -timeout 15m ./...

fuzz:            ## each fuzz target for FUZZTIME
	@set -e; for pkg in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$pkg | grep ^Fuzz); do \
			echo "fuzz $$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$pkg; \
		done; \
	done

test-long: test fuzz ## the tests and the fuzz targets

check:           ## format, vet, lockfiles
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "run gofmt on:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./...
	$(GO) mod tidy -diff
	cd demo && $(GO) vet $(TAGS) ./... && $(GO) mod tidy -diff

clean:           ## remove .cache
	rm -rf $(CACHE)

# make            build bin/
# make up         build, then run a node here
# make test       everything CI runs except the linters
# make check      formatting, linters, go mod tidy, race detector
# make bench bench-broker fuzz integration crash example   parts of their own
# make words      comments that name no noun, and names that several types share
# make conformance-mutants   whether the proofs of docs/conformance.md can fail

SHELL := /bin/bash
export CGO_ENABLED ?= 0
# The CA's library would link three databases that nothing here uses.
export GOFLAGS := -tags=nobadger,nomysql,nopgx

GOLANGCI_VERSION := v2.15.0
GOTESTSUM_VERSION := v1.13.0
TOOLS := $(CURDIR)/.tools
GOTESTSUM := $(TOOLS)/gotestsum-$(GOTESTSUM_VERSION)
# The version after the last tag, as CHANGELOG.md has it: a build without a tag is
# 0.1.0-dev+COMMIT, one at the tag v0.1.0 is 0.1.0.
NEXT := 0.1.0
VERSION := $(or $(patsubst v%,%,$(shell git describe --tags --exact-match --match 'v*' --dirty 2>/dev/null)),$(NEXT)-dev$(addprefix +,$(shell git describe --always --exclude '*' --dirty 2>/dev/null)))
PROGRAMS := hpmq hpmq-enroll hpmq-lite
# Modules of their own: guest code is built for wasip1 by its tests.
GUESTS := funcs/sdk/go examples/functions
FUZZTIME ?= 20s
ARGS ?=

# $(call gotest,PACKAGES,FLAGS). A person sees each failure at once, from go test.
# CI sets RERUNS=2, to tell a test that fails now and then from one that fails.
ifdef RERUNS
gotest = GOTESTSUM=$(GOTESTSUM) scripts/test-rerun "$(1)" $(2)
else
gotest = go test $(2) $(1)
endif

.PHONY: all build test check lint race up install bench bench-broker integration crash example fuzz conformance-mutants words tools clean

all: build test

build:
	@mkdir -p bin
	go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/ $(addprefix ./cmd/,$(PROGRAMS))

up: build
	bin/hpmq up $(ARGS)

install: build
	install -d $(DESTDIR)$(or $(PREFIX),/usr/local)/bin
	install $(addprefix bin/,$(PROGRAMS)) $(DESTDIR)$(or $(PREFIX),/usr/local)/bin

test: tools build $(if $(RERUNS),$(GOTESTSUM))
	go vet ./...
	$(call gotest,./...,-timeout 20m)
	@for m in $(GUESTS); do echo "== $$m"; (cd $$m && go vet ./... && go test ./...) || exit 1; done

# Programs that the integration tests drive. As root on Debian they are
# installed; elsewhere the tests that need them say so and are skipped.
tools:
	@scripts/test-tools

integration: tools build
	go test -count=1 -v ./integration/...

# Kills a loaded node so often, at random instants; HPMQ_CRASH_SEED repeats a run.
crash:
	HPMQ_CRASH_KILLS=$${HPMQ_CRASH_KILLS:-200} go test -count=1 -v -timeout 60m -run 'TestCrash$$' ./integration

example: build
	examples/quickstart/run.sh

check: lint race

lint: $(TOOLS)/golangci-lint-$(GOLANGCI_VERSION)
	go mod tidy -diff
	$< run ./...
	$< fmt --diff ./...

$(TOOLS)/golangci-lint-$(GOLANGCI_VERSION):
	@mkdir -p $(TOOLS)
	GOBIN=$(TOOLS) GOFLAGS= go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	mv $(TOOLS)/golangci-lint $@

$(GOTESTSUM):
	@mkdir -p $(TOOLS)
	GOBIN=$(TOOLS) GOFLAGS= go install gotest.tools/gotestsum@$(GOTESTSUM_VERSION)
	mv $(TOOLS)/gotestsum $@

# Everything but the black-box tests, which start separate processes.
race: $(if $(RERUNS),$(GOTESTSUM))
	CGO_ENABLED=1 $(call gotest,$$(go list ./... | grep -v /integration),-race)

bench:
	go test -run '^$$' -bench . -benchmem ./mqtt/... ./policy/... ./funcs/... ./identity/... ./overlay/...

# Beside mosquitto and mochi; writes the tables of docs/benchmarks.md.
bench-broker: build
	cd integration/peers/mochi && GOFLAGS= go build -o $(CURDIR)/bin/mochi .
	go run ./integration/peers $(ARGS)

# Go before 1.27 may call the end of FUZZTIME a failure that has no input
# (golang.org/issue/75804).
fuzz:
	@set -o pipefail; log=$$(mktemp); trap 'rm -f $$log' EXIT; \
	for p in $$(grep -rl --include=*_test.go '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
	  for f in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' $$p/*_test.go | sed 's/func //'); do \
	    echo "== $$p $$f"; (cd $$p && go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1x .) 2>&1 | tee $$log || \
	      { grep -q '^    context deadline exceeded$$' $$log && ! grep -q 'Failing input' $$log; } || exit 1; \
	  done; done

# Disables branches of the broker that obey the MQTT specification, one at a time,
# and expects the tests that docs/conformance.md names to fail.
conformance-mutants:
	go run ./internal/conformance/mutants $(ARGS)

words:
	@go run ./internal/words

clean:
	rm -rf bin $(TOOLS)

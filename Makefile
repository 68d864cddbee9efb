GO       ?= go
FUZZTIME ?= 20s
# What warren version says; nothing here means what Go makes of the git checkout.
VERSION  ?=

.DEFAULT_GOAL := help
.PHONY: help build test stress chaos chaos-broken test-cluster test-systemd test-brokers package package-check lint vuln bench bench-quick bench-fleet demo fuzz clean

help: ## list what there is (the default)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build bin/warren, one static file
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w $(if $(VERSION),-X github.com/warrenmq/warren/daemon.version=$(VERSION))' -o bin/warren .

test: ## install what the tests need, and run them all
	.ci/deps
	$(GO) test -race -p 2 -parallel 8 -timeout 60m ./... # side by side: they mostly wait
	@$(MAKE) --no-print-directory fuzz
	@echo
	@echo 'Every test of every package passes under the race detector, against a private RabbitMQ node that'
	@echo 'was stopped, killed and cut off on the way; and no fuzz target found a fault in $(FUZZTIME).'

COUNT    ?= 5
JOBS     ?= 4
BUSY     ?= 2
PACKAGES ?= ./...
RUN      ?=
stress: ## run the tests of PACKAGES COUNT times each, JOBS of them side by side, on a busy machine, and print which failed how often
	.ci/deps
	$(GO) run ./internal/stress -go '$(GO)' -count $(COUNT) -jobs $(JOBS) -busy $(BUSY) -run '$(RUN)' $(PACKAGES)

# Which RabbitMQ chaos and clusters are of: 3.10 is this machine's, .ci/broker has the others.
BROKER     ?= 3.10
WITH_BROKER = $(if $(filter-out 3.10,$(BROKER)),RABBITMQ_VERSION=$(BROKER) RABBITMQ_SERVER="$$(.ci/broker $(BROKER))")
test-cluster: ## test against a cluster of three nodes, killed, paused and cut off (as root, 6 minutes; BROKER=4.3)
	.ci/deps
	$(WITH_BROKER) $(GO) test -tags cluster -run '^TestCluster' -count 1 -v -timeout 20m ./consumer

DURATION ?= 10m
SEED     ?= 0
CLUSTER  ?=
# A mount of its own, if that can be had, ends with the run.
CHAOS     = $(WITH_BROKER) $(if $(filter 0,$(shell id -u)),unshare --mount) $(GO) test -tags chaos -count 1 -v -timeout 4h ./internal/chaos
chaos: ## break workers, the node, the network and a disk at random for DURATION, and have a checker decide what came of it (SEED replays; BROKER=4.3, CLUSTER=1)
	.ci/deps
	$(CHAOS) -run 'TestChaos$$' -args -duration $(DURATION) -seed $(SEED) $(if $(CLUSTER),-cluster)

chaos-broken: ## show that the checker catches three builds that are broken on purpose, and restart a worker forty times
	.ci/deps
	$(CHAOS) -run 'TestBrokenBuilds|TestRestarts' -args -duration 20s

failpoints: ## kill, delay and fail the daemon wherever something may have happened unknown, RUN some (15 minutes)
	.ci/deps
	$(GO) test -tags failpoints -count 1 -timeout 60m -parallel 4 -v -run 'TestFailpoints/$(RUN)' .

test-systemd: ## boot real machines with systemd, install the package, and test the service (as root)
	.ci/deps systemd
	$(GO) test -tags systemd -v -timeout 20m ./internal/machinetest ./systemd

BROKERS ?= 3.10 4.0 4.3
test-brokers: ## run the tests that depend on the broker against RabbitMQ 3.10, 4.0 and 4.3 (as root)
	.ci/deps
	.ci/deps systemd
	@GO='$(GO)' .ci/test-brokers $(BROKERS)

package: ## build the .deb and .rpm packages into dist, for amd64 and arm64
	VERSION='$(VERSION)' GO='$(GO)' systemd/package/build

package-check: ## check the packages: the same bytes anywhere, lintian, installed and removed in a copy of this system (as root)
	.ci/deps package
	GO='$(GO)' .ci/package

lint: ## look for faults without running anything
	$(GO) mod tidy -diff
	cd examples/own-processor && $(GO) mod tidy -diff
	cd .ci/bench && $(GO) mod tidy -diff && $(GO) vet ./...
	$(GO) tool -modfile=.ci/lint/go.mod golangci-lint run ./...

vuln: ## look for known vulnerabilities, if their database can be reached
	@GO='$(GO)' .ci/vuln

# Each is a process of its own, built as the packages are, and so is the broker.
BENCH  = cd .ci/bench && CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o '$(CURDIR)/bin/bench/' ./... && '$(CURDIR)/bin/bench/bench' -bin '$(CURDIR)/bin/bench'
ROUNDS ?= 3
bench-quick: ## measure Warren beside loops written by hand and other libraries (2 minutes)
	.ci/deps
	$(BENCH) -rounds $(ROUNDS)

bench: ## the same, and queues, backlogs, bodies, latency, commands, start and stop; then the database and processors (40 minutes)
	.ci/deps
	$(BENCH) -rounds $(ROUNDS) -all
	$(GO) test -run '^$$' -bench . -benchtime 5x -timeout 30m ./consumer/database
	$(GO) test -run '^$$' -bench . ./processors/...

FLEETS ?= 1x1x0 1x20x0 1x20x10 10x10x10 30x20x0 30x20x10
bench-fleet: build ## measure what idle daemons cost the broker: FLEETS, daemons x queues x schedules (10 minutes)
	.ci/deps
	$(GO) run ./internal/fleet -warren bin/warren $(FLEETS)

KEEP ?=
demo: ## see Warren at work: install what that needs, start a node, publish, fail, retry; KEEP=1 leaves its page up
	.ci/deps demo
	$(GO) run ./internal/demo $(if $(KEEP),-keep)

fuzz: ## run every fuzz target for FUZZTIME
	@GO='$(GO)' .ci/fuzz $(FUZZTIME)

clean: ## remove what was built
	rm -rf bin dist .cache demo

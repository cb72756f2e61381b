# Two commands: `make run` serves what is in models/, `make test` tests. The rest of the work is CMake's.
.PHONY: run build install test check-deps sanitize tsan conformance fuzz bench kerncheck toy clean
PREFIX ?= /usr/local
CTEST = ctest --test-dir $(1) --output-on-failure

run: build
	@exec build/altiserve serve

build:
	@tools/setup build
	@tools/cmake-build build

# Into PREFIX; under DESTDIR, where that is given, as packages are made.
install: build
	@cmake --install build --prefix "$(PREFIX)"

test:
	@tools/setup test
	@tools/cmake-build build
	@$(call CTEST,build)

# The same tests with AddressSanitizer and UndefinedBehaviorSanitizer; `tsan` with ThreadSanitizer.
sanitize:
	@tools/setup test
	@tools/cmake-build build-asan -DCMAKE_BUILD_TYPE=RelWithDebInfo -DALTISERVE_SANITIZE=address,undefined
	@$(call CTEST,build-asan)

tsan:
	@tools/setup test
	@tools/cmake-build build-tsan -DCMAKE_BUILD_TYPE=RelWithDebInfo -DALTISERVE_SANITIZE=thread
	@$(call CTEST,build-tsan)

check-deps:
	@tools/check-deps

# Holds altiserve against llama.cpp and Jinja2. PEER_DIR names an installed peer; SAMPLE=1 runs the part that CI runs.
conformance: build
	@tools/setup check
	@tests/conformance/run

# FUZZ_SECONDS (60) for each target, from seeds and from what earlier runs found.
fuzz:
	@tools/setup fuzz
	@CC=clang tools/cmake-build build-fuzz -DCMAKE_BUILD_TYPE=RelWithDebInfo -DALTISERVE_FUZZ=ON -DALTISERVE_SANITIZE=address,undefined
	@build-fuzz/seed_corpus build-fuzz/seeds
	@for f in build-fuzz/fuzz_*; do [ -x $$f -a ! -d $$f ] || continue; n=$${f##*fuzz_}; mkdir -p build-fuzz/found/$$n build-fuzz/seeds/$$n; \
	  $$f -max_total_time=$${FUZZ_SECONDS:-60} -rss_limit_mb=2048 -artifact_prefix=build-fuzz/ build-fuzz/found/$$n build-fuzz/seeds/$$n || exit 1; done

# Speed side by side with an installed llama.cpp (PEER_DIR); ARGS: see bench/table.mjs. RECORD=1 appends to bench/results.csv.
bench: build
	@bench/table.mjs $(ARGS)

# Kernels of every tier that this machine has against the reference in C, and their speed (ARGS: see bench/kerncheck.c).
kerncheck: build
	@cmake --build build --target kerncheck
	@build/kerncheck $(ARGS)

# Trains toy-1 again from its corpus generator (under an hour on two cores).
toy:
	@tools/toy/make-toy.sh

clean:
	rm -rf build build-asan build-tsan build-fuzz

#!/bin/bash
# Stands before the compiler (RUSTC_WORKSPACE_WRAPPER): our own crates count
# which code runs, for tests/fuzz.rs to read; what they depend on does not.
count=(-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3
       -Cllvm-args=-sanitizer-coverage-inline-8bit-counters)
# Cargo builds the program beside its tests, where nobody asks for the counters:
# what takes them is there a function that does nothing.
[[ -n ${CARGO_BIN_NAME:-} ]] && count+=(-Clink-arg=-Wl,--defsym=__sanitizer_cov_8bit_counters_init=_fini)
exec "$@" "${count[@]}"

// cpu/probe: a unit of the processor kept busy from registers, as cpu_probe's run has it: `chains` sums of type SUM, so that no operation waits for the one before, each of
// which a round replaces by STEP(a, x, y). REG is the constraint of the registers that all of them lie in.
#pragma once
#include "cpu/cpu_internal.h"

#define PROBE_RUN(name, chains, SUM, zero, OPERAND, value, REG, STEP)                                                \
    static void name(int64_t rounds) {                                                                               \
        SUM a[chains];                                                                                               \
        OPERAND x = value, y = value;                                                                                \
        for (int i = 0; i < (chains); i++) a[i] = zero;                                                              \
        for (int64_t r = 0; r < rounds; r++)                                                                         \
            for (int i = 0; i < (chains); i++) {                                                                     \
                __asm__ volatile("" : "+" REG(x), "+" REG(y)); /* or the loop could be computed without running it */ \
                a[i] = STEP(a[i], x, y);                                                                             \
            }                                                                                                        \
        for (int i = 0; i < (chains); i++) __asm__ volatile("" : : REG(a[i]));                                       \
    }

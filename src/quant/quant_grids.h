// The grids of the IQ types, and how to unpack an entry. Read-only.
#pragma once
#include <stdint.h>

extern const uint16_t quant_grid_iq2_xxs[256], quant_grid_iq2_xs[512], quant_grid_iq2_s[1024]; // 8 levels of 2 bits: 8, 25, 43
extern const uint16_t quant_grid_iq3_xxs[256];                                                  // 4 levels of 4 bits: 4 12 20 28 36 44 52 62
extern const uint16_t quant_grid_iq3_s[512];                                                    // 4 levels of 4 bits: 1 3 5 ... 15
extern const uint16_t quant_grid_iq1[2048];                                                     // 8 levels of 2 bits: -1 0 1
extern const uint8_t  quant_grid_levels_iq2[4], quant_grid_levels_iq3_xxs[8];

// The sign byte for a 7-bit index: bit 7 makes the number of set bits even.
static inline uint8_t quant_even_signs(unsigned index) {
    unsigned p = index ^ index >> 4;
    p ^= p >> 2;
    p ^= p >> 1;
    return (uint8_t)(index | (p & 1) << 7);
}

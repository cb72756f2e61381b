// cpu/neon/codes: 16 rows x 32 columns of short codes (cpu_codes.h) as signed bytes in a block of cpu_neon_kernels.h, which includes this after the block is
// known. Entries of grids are looked up one by one, since there is no gather; their levels are spread to bytes and looked up by TBL.
#pragma once

// 16 bits to 16 bytes of all ones or zero.
INLINE uint8x16_t code_spread(const uint8_t *p) {
    static const uint8_t bits[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    return vtstq_u8(vcombine_u8(vdup_n_u8(p[0]), vdup_n_u8(p[1])), vld1q_u8(bits));
}

INLINE int8x16_t code_negated(int8x16_t v, uint8x16_t mask) { // where the mask is set
    int8x16_t m = vreinterpretq_s8_u8(mask);
    return vsubq_s8(veorq_s8(v, m), m);
}

INLINE void code_load_grid(const code_layout *l, const uint8_t *a, block *o) {
    const bool four = l->numbers == CODE_GRID4;
    const int entries = four ? 8 : 4;
    const uint8_t *signs = a + entries * 16, *high = signs + (l->shift ? 0 : 64), *shift = high + entries * l->high * 2;
    const int8x16_t levels = vaddq_s8(vld1q_s8(l->values), vdupq_n_s8(l->shift));
    for (int g = 0; g < entries; g++) {
        uint32_t words[PANEL];
        for (int r = 0; r < PANEL; r++) {
            int index = a[g * 16 + r];
            for (int i = 0; i < l->high; i++) index |= (high[(g * l->high + i) * 2 + r / 8] >> r % 8 & 1) << (8 + i);
            words[r] = l->grid[index];
        }
        for (int j = 0; j < 4; j++) {
            uint32x4_t word = vld1q_u32(words + 4 * j);
            for (int c = 0; c < (four ? 1 : 2); c++) {
                uint32x4_t x = c ? vshrq_n_u32(word, 8) : word;
                if (four) {
                    x = vorrq_u32(vandq_u32(x, vdupq_n_u32(0xff)), vshlq_n_u32(vandq_u32(x, vdupq_n_u32(0xff00)), 8));
                    x = vorrq_u32(x, vshlq_n_u32(x, 4));
                } else { // four pairs of bits to four bytes
                    x = vandq_u32(x, vdupq_n_u32(0xff));
                    x = vorrq_u32(x, vshlq_n_u32(x, 12));
                    x = vorrq_u32(x, vshlq_n_u32(x, 6));
                }
                const int at = four ? g : 2 * g + c;
                int8x16_t v = vqtbl1q_s8(levels, vandq_u8(vreinterpretq_u8_u32(x), vdupq_n_u8(four ? 7 : 3)));
                if (l->shift) {
                    static const uint32_t lanes[4] = {1, 2, 4, 8};
                    uint32x4_t down = vtstq_u32(vdupq_n_u32((uint32_t)shift[g * 2 + j / 2] >> j % 2 * 4), vld1q_u32(lanes));
                    v = vsubq_s8(v, vreinterpretq_s8_u32(vandq_u32(down, vdupq_n_u32(0x02020202))));
                } else v = code_negated(v, code_spread(signs + at * 8 + j * 2));
                o->w[at * 4 + j] = v;
            }
        }
    }
}

INLINE void code_load(cpu_format format, const uint8_t *quants, int64_t b, block *o) {
    const code_layout *l = cpu_code(format);
    const uint8_t *a = quants + code_area(l, b);
    const int8x16_t offset = vdupq_n_s8((int8_t)l->offset);
    if (l->numbers == CODE_GRID4 || l->numbers == CODE_GRID8) {
        code_load_grid(l, a, o);
        return;
    }
    for (int c = 0; c < 8; c++)
        for (int j = 0; j < 4; j++) {
            int8x16_t *to = &o->w[c * 4 + j];
            uint8x16_t v;
            switch (l->numbers) {
            case CODE_TABLE:
                v = vld1q_u8(a + c % 4 * 64 + j * 16);
                *to = vqtbl1q_s8(vld1q_s8(l->values), c < 4 ? vandq_u8(v, vdupq_n_u8(15)) : vshrq_n_u8(v, 4));
                continue;
            case CODE_1: v = vandq_u8(code_spread(a + c * 8 + j * 2), vdupq_n_u8(2)); break;
            case CODE_FIVE: { // a fraction of 256: three times it is 0, 1 or 2 and something
                int n = (int)(b % 8) * 8 + c;
                v = vmulq_u8(vld1q_u8(a + n % 13 * 64 + j * 16), vdupq_n_u8(cpu_pow3[n / 13]));
                v = vaddq_u8(vandq_u8(vcgtq_u8(v, vdupq_n_u8(85)), vdupq_n_u8(1)), vandq_u8(vcgtq_u8(v, vdupq_n_u8(170)), vdupq_n_u8(1)));
                break;
            }
            default:
                v = vandq_u8(vshlq_u8(vld1q_u8(a + c % 2 * 64 + j * 16), vdupq_n_s8((int8_t)-(c / 2 * 2))), vdupq_n_u8(3));
                if (l->numbers == CODE_3) v = vorrq_u8(v, vandq_u8(code_spread(a + 128 + c * 8 + j * 2), vdupq_n_u8(4)));
            }
            *to = vsubq_s8(vreinterpretq_s8_u8(v), offset);
        }
}

// Bytes of four rows, 4j..4j+3, as int32.
INLINE int32x4_t code_u8(const uint8_t *p, int j) {
    uint32_t v;
    memcpy(&v, p + 4 * j, 4);
    return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(v))))));
}
INLINE int32x4_t code_i8(const uint8_t *p, int j) {
    uint32_t v;
    memcpy(&v, p + 4 * j, 4);
    return vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(v)))));
}
INLINE int32x4_t code_odd(int32x4_t s) { return vorrq_s32(vaddq_s32(s, s), vdupq_n_s32(1)); }

INLINE float32x4_t code_fours(float (*value)(uint8_t), const uint8_t *p, int j) {
    float f[4];
    for (int i = 0; i < 4; i++) f[i] = value(p[4 * j + i]);
    return vld1q_f32(f);
}

INLINE void code_load_scales(cpu_format format, const uint8_t *area, int64_t b, block *o) {
    const code_layout *l = cpu_code(format);
    const int32x4_t low = vdupq_n_s32(15);
    for (int j = 0; j < 4; j++) {
        const uint8_t *x = area, *y;
        switch (l->scale) {
        case SCALE_D: o->d[j] = half4(area + b / l->group * 32 + j * 8); break;
        case SCALE_BYTE:
            x += b / 8 * 160;
            o->d[j] = vmulq_f32(half4(x + j * 8), vcvtq_f32_s32(code_i8(x + 32 + b % 8 * 16, j)));
            break;
        case SCALE_NIBBLE:
            x += b / 8 * 96;
            o->d[j] = vmulq_f32(vmulq_n_f32(half4(x + j * 8), l->unit),
                                vcvtq_f32_s32(code_odd(vandq_s32(vshlq_s32(code_u8(x + 32 + b % 8 / 2 * 16, j), vdupq_n_s32((int)-(b % 2 * 4))), low))));
            break;
        case SCALE_PAIR:
            x += b / 8 * 160;
            o->d[j] = vmulq_n_f32(half4(x + j * 8), l->unit);
            o->s0[j] = code_odd(vandq_s32(code_u8(x + 32 + b % 8 * 16, j), low));
            o->s1[j] = code_odd(vshrq_n_s32(code_u8(x + 32 + b % 8 * 16, j), 4));
            break;
        case SCALE_BYTES:
            x += b / 8 * 288;
            o->d[j] = half4(x + j * 8);
            o->s0[j] = code_i8(x + 32 + b % 8 * 32, j);
            o->s1[j] = code_i8(x + 48 + b % 8 * 32, j);
            break;
        case SCALE_MIN:
            x += b / 8 * 320;
            y = x + 64 + b % 8 * 32;
            o->d[j] = half4(x + j * 8);
            o->m[j] = half4(x + 32 + j * 8);
            o->s0[j] = vandq_s32(code_u8(y, j), low);
            o->s1[j] = vandq_s32(code_u8(y + 16, j), low);
            o->m0[j] = vshrq_n_s32(code_u8(y, j), 4);
            o->m1[j] = vshrq_n_s32(code_u8(y + 16, j), 4);
            break;
        case SCALE_E8: o->d[j] = code_fours(quant_e8m0_half, area + b * 16, j); break;
        default:
            o->d[j] = code_fours(quant_ue4m3_half, area + b * 32, j);
            o->m[j] = code_fours(quant_ue4m3_half, area + b * 32 + 16, j);
        }
    }
}

// What a block adds to four outputs of one row; low and high as add_block has them. The same operations as the other tiers'.
INLINE float32x4_t code_add_block(cpu_format format, const block *w, int j, int32x4_t low, int32x4_t high, float d, int32_t nsum, int32_t nhigh, float32x4_t y) {
    const code_layout *l = cpu_code(format);
    const float32x4_t wd = vmulq_f32(w->d[j], vdupq_n_f32(d));
    if (l->scale == SCALE_E4) return vfmaq_f32(vfmaq_f32(y, vcvtq_f32_s32(low), wd), vcvtq_f32_s32(high), vmulq_f32(w->m[j], vdupq_n_f32(d)));
    if (code_two(l)) low = vmlaq_s32(vmulq_s32(low, w->s0[j]), high, w->s1[j]);
    y = vfmaq_f32(y, vcvtq_f32_s32(low), wd);
    if (l->scale != SCALE_MIN) return y;
    int32x4_t m = vmlaq_s32(vmulq_n_s32(w->m0[j], nsum - nhigh), w->m1[j], vdupq_n_s32(nhigh));
    return vfmaq_f32(y, vcvtq_f32_s32(m), vmulq_f32(w->m[j], vdupq_n_f32(d)));
}

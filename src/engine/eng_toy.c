// The built-in model: the bytes of a GGUF file inside the program. TOY_GGUF is its path, given by the build.
#include "engine/eng_models.h"

#if defined(__APPLE__)
#define SECTION ".const_data"
#define SYMBOL(name) "_" name
#else
#define SECTION ".section .rodata"
#define SYMBOL(name) name
#endif

__asm__(SECTION "\n"
        ".balign 64\n"
        ".globl " SYMBOL("altiserve_toy_begin") "\n" SYMBOL("altiserve_toy_begin") ":\n"
        ".incbin \"" TOY_GGUF "\"\n"
        ".globl " SYMBOL("altiserve_toy_end") "\n" SYMBOL("altiserve_toy_end") ":\n"
        ".byte 0\n"
        ".text\n");

extern const unsigned char altiserve_toy_begin[], altiserve_toy_end[];

const void *eng_toy_data(size_t *bytes) {
    *bytes = (size_t)(altiserve_toy_end - altiserve_toy_begin);
    return altiserve_toy_begin;
}

// tok_pre: how each tokenizer.ggml.pre cuts text into words. The patterns are those of the published tokenizers, in the peer's
// reading of them: one pattern after the other, each applied to the pieces that the one before left, what no match covers staying
// a piece of its own; \p{L}, \p{N}, \p{M}, \p{P}, \p{S} are classes.
//
// Two kinds (see tok_split.c): a pattern with \p{..} sees classes; one without sees characters, named as \x{..} inside sets only.
// Where a published pattern would take quadratic time or a deep stack it is written differently here, to the same effect:
//   - (?=[\p{L}])[^a-z] is [\p{U}] (all letters but a-z), (?=[\p{L}])[^A-Z] is [\p{D}];
//   - sets of Lu, Ll, Lt, Lm, Lo are all \p{L}, since classes do not tell them apart;
//   - "@name" is a splitter written by hand.
#include "tokenizer/tok_internal.h"

#define CONTRACTION "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
#define SPACES "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)"
#define LLAMA3_HEAD CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
#define LLAMA3 LLAMA3_HEAD SPACES
#define QWEN2_TAIL "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" SPACES
#define QWEN2 CONTRACTION "|" QWEN2_TAIL
#define CJK "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+"
#define DEEPSEEK3_HEAD \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+"
#define DEEPSEEK3 DEEPSEEK3_HEAD "[\\r\\n]*|" SPACES
// Letters in any order of cases, with an optional character before and a contraction after.
#define CASED(upper, lower, n) \
    "[^\\r\\n\\p{L}\\p{N}]?[" upper "]*[" lower "]+" CONTRACTION "?|[^\\r\\n\\p{L}\\p{N}]?[" upper "]+[" lower "]*" CONTRACTION "?|" n \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES
#define LETTERS_MARKS(n) \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+" CONTRACTION "?|" n "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES
#define BLOOM " ?[^(\\s|.,!?\\x{2026}\\x{3002}\\x{FF0C}\\x{3001}\\x{964}\\x{6D4}\\x{60C})]+"

static const tok_pre pres[] = {
    {"default", {"[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}, 0},
    {"llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano", {LLAMA3}, PRE_IGNORE_MERGES | PRE_ADD_BOS},
    {"dbrx smaug-bpe", {LLAMA3}, 0},
    {"glm4 chatglm-bpe", {LLAMA3}, PRE_NO_BOS},
    {"jais-2", {LLAMA3, "@halves"}, 0},
    {"deepseek-llm",
     {"[\\r\\n]",
      "\\s?[A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}\\x{1C4}-\\x{293}\\x{295}-\\x{2AF}\\x{370}-\\x{373}"
      "\\x{376}\\x{377}\\x{37B}-\\x{37D}\\x{37F}\\x{386}\\x{388}-\\x{38A}\\x{38C}\\x{38E}-\\x{3A1}\\x{3A3}-\\x{3F5}\\x{3F7}-\\x{481}"
      "\\x{48A}-\\x{52F}\\x{531}-\\x{556}\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}\\x{13F8}-\\x{13FD}\\x{1C90}-\\x{1CBA}\\x{1CBD}-\\x{1CBF}"
      "\\x{1D00}-\\x{1D2B}\\x{1D6B}-\\x{1D77}\\x{1D79}-\\x{1D9A}\\x{1E00}-\\x{1F15}\\x{1F18}-\\x{1F1D}\\x{1F20}-\\x{1F45}\\x{1F48}-\\x{1F4D}"
      "\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}\\x{1F5D}\\x{1F5F}-\\x{1F7D}\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}"
      "\\x{1FC6}-\\x{1FCC}\\x{1FD0}-\\x{1FD3}\\x{1FD6}-\\x{1FDB}\\x{1FE0}-\\x{1FEC}\\x{1FF2}-\\x{1FF4}\\x{1FF6}-\\x{1FFC}\\x{2102}\\x{2107}"
      "\\x{210A}-\\x{2113}\\x{2115}\\x{2119}-\\x{211D}\\x{2124}\\x{2126}\\x{2128}\\x{212A}-\\x{212D}\\x{212F}-\\x{2134}\\x{2139}"
      "\\x{213C}-\\x{213F}\\x{2145}-\\x{2149}\\x{214E}\\x{2183}\\x{2184}\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}\\x{2CEB}-\\x{2CEE}\\x{2CF2}"
      "\\x{2CF3}\\x{A640}-\\x{A66D}\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}\\x{A771}-\\x{A787}\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{ABBF}"
      "\\x{FB00}-\\x{FB06}\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}\\x{FF41}-\\x{FF5A}\\x{10400}-\\x{1044F}\\x{104B0}-\\x{104D3}"
      "\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}\\x{10CC0}-\\x{10CF2}\\x{118A0}-\\x{118DF}\\x{1E900}-\\x{1E943}]+",
      "\\s?[!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3000}-\\x{3002}]+", "@trailing",
      "[\\x{4E00}-\\x{9FA5}\\x{800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+", "\\p{N}+"},
     PRE_KEEP_SPACES},
    {"deepseek-coder",
     {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", "[\\x{4E00}-\\x{9FA5}\\x{800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+", "\\p{N}"},
     PRE_KEEP_SPACES},
    {"deepseek-v3 hunyuan-dense joyai-llm hy_v4", {"\\p{N}{1,3}", CJK, DEEPSEEK3}, PRE_KEEP_SPACES},
    {"spark2_5", {"\\p{N}{1,3}", CJK, DEEPSEEK3_HEAD "|[\\r\\n]|\\s+(?!\\S)|\\s+", "\\p{N}"}, PRE_KEEP_SPACES},
    {"youtu",
     {"[\\x{AC00}-\\x{D7A3}\\x{3131}-\\x{318E}]+|[\\x{FF01}\\x{2026}\\x{201C}\\x{201D}\\x{2018}\\x{2019}\\x{2014}\\x{FF1A}\\x{FF1B}\\x{FF0C}"
      "\\x{3001}-\\x{303F}\\x{FE30}-\\x{FE4F}]+|[\\x{3105}-\\x{312F}]+|" CJK,
      LETTERS_MARKS("\\p{N}")},
     PRE_KEEP_SPACES | PRE_IGNORE_MERGES},
    {"falcon", {"[\\p{P}\\$\\+<=>\\^~\\|`]+", GPT2, "[0-9][0-9][0-9]"}, 0},
    {"starcoder refact codeshell exaone minerva-7b mellum2", {"\\p{N}", GPT2}, 0},
    {"command-r smollm", {"\\p{N}", GPT2}, PRE_KEEP_SPACES},
    {"gpt-2 mpt olmo jais phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert exaone4", {GPT2}, 0},
    {"jina-v1-en jina-v2-code roberta-bpe", {GPT2}, PRE_ADD_SEP},
    {"trillion granite-docling", {GPT2}, PRE_KEEP_SPACES},
    {"qwen2 deepseek-r1-qwen kormo f2llmv2 hunyuan solar-open grok-2", {QWEN2}, PRE_KEEP_SPACES},
    {"stablelm2 megrez", {QWEN2}, 0},
    {"qwen35",
     {CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" SPACES},
     PRE_KEEP_SPACES},
    {"poro-chat", {BLOOM}, PRE_KEEP_SPACES},
    {"bloom gpt3-finnish", {BLOOM}, 0},
    {"viking", {BLOOM, "\\p{N}"}, PRE_KEEP_SPACES},
    {"tekken",
     {"[^\\r\\n\\p{L}\\p{N}]?[\\p{U}]*[\\p{D}]+|[^\\r\\n\\p{L}\\p{N}]?[\\p{U}]+[\\p{D}]*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES},
     PRE_KEEP_SPACES | PRE_IGNORE_MERGES | PRE_ADD_BOS},
    {"chameleon",
     {"<sentinel:[0-9]+>", "IMGIMG[A-I]{1,4}Z", "[\\t\\n]|    |  ", "\\p{N}", "[\\p{P}!-/:-@\\[-`{-~]", GPT2},
     PRE_KEEP_SPACES | PRE_ADD_BOS},
    {"gpt-4o llama4 kanana2 talkie minimax-m2", {CASED("\\p{U}", "\\p{D}", "\\p{N}{1,3}")}, PRE_KEEP_SPACES},
    {"granite-embed-multi-97m", {CASED("\\p{U}\\p{M}", "\\p{D}\\p{M}", "\\p{N}{1,3}")}, PRE_KEEP_SPACES | PRE_IGNORE_MERGES},
    {"tiny_aya cohere2moe", {"@groups", LETTERS_MARKS("\\p{N}{1,3}")}, PRE_KEEP_SPACES},
    {"kimi-k2",
     {"\\p{H}+|[^\\r\\n\\p{L}\\p{N}]?[\\p{K}]+" CONTRACTION "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" SPACES},
     PRE_KEEP_SPACES},
    {"superbpe", {"\\p{N}+", "@threes"}, PRE_KEEP_SPACES},
    {"bailingmoe bailingmoe2 llada-moe",
     {"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|"
      "\\s+"},
     PRE_KEEP_SPACES},
    {"seed-coder", {CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|" SPACES}, PRE_KEEP_SPACES},
    {"ufakzeka", {QWEN2_TAIL}, PRE_KEEP_SPACES},
    {"afmoe",
     {"@groups",
      "[\\x{4E00}-\\x{9FFF}\\x{3400}-\\x{4DBF}\\x{8C48}-\\x{FAFF}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}\\x{FF65}-\\x{FF9F}\\x{2F00}-\\x{2FDF}"
      "\\x{E40}-\\x{E7F}\\x{E80}-\\x{EFF}\\x{1780}-\\x{17FF}\\x{1000}-\\x{109F}\\x{AA60}-\\x{AA7F}\\x{A9E0}-\\x{A9FF}\\x{AC00}-\\x{D7AF}"
      "\\x{1100}-\\x{11FF}]+",
      DEEPSEEK3},
     PRE_KEEP_SPACES},
    {"laguna", {"[^\\n]+|[\\n]+", QWEN2}, PRE_KEEP_SPACES},
    {"exaone-moe",
     {CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}\\p{M}*+(?: ?+\\p{L}\\p{M}*+)*+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]?|\\s*[\\r\\n]|"
      "\\s+(?!\\S)|\\s+"},
     0},
    {"gemma4 granite-embed-multi-311m", {"[^\\n]+|[\\n]+"}, PRE_TEXT | PRE_ESCAPE | PRE_NEWLINES | PRE_ADD_BOS_ALWAYS},
    {"sarvam-moe", {"[^\\n]+|[\\n]+"}, PRE_TEXT | PRE_ESCAPE | PRE_KEEP_SPACES},
    {"minicpm5",
     {"\\p{N}{1,3}", CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}+| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" SPACES},
     PRE_IGNORE_MERGES},
    {"whitespace", {"\\S+"}, PRE_TEXT | PRE_CASED},
};

const tok_pre *tok_pre_find(const char *name, size_t len) {
    for (size_t i = 0; i < sizeof pres / sizeof *pres; i++) {
        for (const char *p = pres[i].names; *p;) {
            size_t n = strcspn(p, " ");
            if (n == len && memcmp(p, name, n) == 0) return &pres[i];
            p += n + (p[n] == ' ');
        }
    }
    return NULL;
}

const tok_pre *tok_pre_default(void) { return &pres[0]; }
const char *tok_pre_names(size_t i) { return i < sizeof pres / sizeof *pres ? pres[i].names : NULL; }

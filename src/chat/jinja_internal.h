// The Jinja interpreter's own types: values, syntax tree, and what the files of this room offer each other.
//
// Invariants: a value is immutable once it is built, but for a namespace (its dict grows), a generator (its list is used up) and
// the states of a loop, a cycler and a joiner. All memory of a render is in one arena, all of a compiled template in another: nothing
// is freed singly, so an error may leave from any depth by longjmp (jj_fail). What is not in an arena (text buffers that grow) hangs in
// jj.bufs and is freed by jj_end. No function here may hold anything else across a call that can fail.
// Threads: a jj belongs to one thread; a chat_template is only read while rendering.
#pragma once
#include <jansson.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "base/status.h"
#include "base/utf8.h"
#include "chat/chat.h"

typedef enum jkind {
    J_MISSING, // no value at all: an argument that was not given, a name that is not set
    J_UNDEF,
    J_NONE,
    J_BOOL,
    J_INT,
    J_FLOAT,
    J_STR,
    J_LIST,
    J_TUPLE,
    J_GEN,  // what Python makes a generator: no length, no index, iterated once
    J_VIEW, // dict.keys(), .values(), .items(): `aux` says which
    J_DICT,
    J_RANGE,
    J_NS,
    J_FUNC,   // a function of ours: `aux` is a jfunc
    J_METHOD, // a method bound to a value
    J_MACRO,
    J_LOOP,
    J_CYCLER,
    J_JOINER,
    J_TYPE // dict, namespace and the like are functions; this is only for what prints as a class
} jkind;

// A string: bytes, and where they come from. `o` holds a byte for each byte of the text (1 = trusted); NULL: all are as `trusted` says.
typedef struct jstr {
    const char    *p;
    const uint8_t *o;
    size_t         len, chars; // chars: code points
    bool           trusted, markup;
} jstr;

typedef struct jval {
    uint8_t  kind;
    bool     trusted; // of scalars: made from the template alone
    uint16_t aux;
    union {
        bool           b;
        int64_t        i;
        double         f;
        const jstr    *s;
        struct jlist  *l;
        struct jdict  *d;
        struct jrange *r;
        struct jbound *m;
        struct jmacro *macro;
        struct jloop  *loop;
        struct jcycle *cycle;
        const char    *name; // J_UNDEF: what was looked for
    } u;
} jval;

typedef struct jlist {
    jval  *v;
    size_t n, cap;
} jlist;
typedef struct jdict {
    jval    *k, *v;
    size_t   n, cap;
    uint32_t *index; // open addressing, entry + 1; NULL while small
    size_t   index_cap;
} jdict;
typedef struct jrange { int64_t start, stop, step, n; } jrange;
typedef struct jbound { jval self; const struct jmethod *method; } jbound;
typedef struct jcycle { jlist items; size_t pos; jval sep; bool used; } jcycle;

// --- The syntax tree ---
typedef enum jnode_kind {
    N_CONST, N_NAME, N_LIST, N_TUPLE, N_DICT, N_ATTR, N_ITEM, N_SLICE, N_CALL, N_FILTER, N_TEST, N_NOT, N_NEG, N_POS,
    N_BIN, N_AND, N_OR, N_CMP, N_CONCAT, N_COND, N_NSREF, N_ARG,
    N_TEXT, N_OUT, N_IF, N_FOR, N_SET, N_SETBLOCK, N_MACRO, N_CALLBLOCK, N_FILTERBLOCK, N_WITH, N_SCOPE, N_BREAK, N_CONTINUE
} jnode_kind;
typedef enum jop { OP_ADD, OP_SUB, OP_MUL, OP_DIV, OP_FLOORDIV, OP_MOD, OP_POW, OP_EQ, OP_NE, OP_LT, OP_LE, OP_GT, OP_GE, OP_IN, OP_NOTIN } jop;
enum { ARG_POS, ARG_KEY, ARG_STAR, ARG_DSTAR };
enum { SAW_CALLER = 1, SAW_VARARGS = 2, SAW_KWARGS = 4 };

// One node; which fields count is said where the parser makes it.
typedef struct jnode {
    uint8_t       kind, op;
    bool          flag, flag2;
    int32_t       id;  // an atom, or a filter's or test's number
    uint32_t      pos; // byte offset in the source
    jval          val;
    const jstr   *name;
    struct jnode *a, *b, *c, *d, *list, *next;
} jnode;

struct chat_template {
    arena         mem;
    const char   *source; // newlines normalised
    size_t        len;
    jnode        *body;
    const jstr  **atoms; // names of variables
    size_t        natoms;
    const bool   *hidden; // by atom: the outermost level's own, never read from the input
};

// --- One compilation or render ---
typedef struct jbuf {
    char       *p;
    uint8_t    *o;
    size_t      len, cap;
    bool        trusted, mixed;
    struct jbuf *next;
} jbuf;

typedef struct jscope {
    struct jscope *up;
    int32_t       *atoms;
    jval          *v;
    uint32_t       n, cap;
} jscope;

typedef struct jj {
    jmp_buf     env;
    error      *err;
    arena      *mem;
    const char *source;
    size_t      source_len;
    uint32_t    pos; // where in the source we are
    chat_limits limits;
    uint64_t    steps;
    int         depth, calls;
    size_t      buf_bytes;
    jbuf       *bufs, *free_bufs;
    // rendering
    const chat_template *t;
    jval       *globals; // by atom
    jscope     *scope;
    jbuf       *out;
    int32_t     atom_loop, atom_caller, atom_varargs, atom_kwargs;
    jval        filter_in; // what the first filter of a block's chain takes
    const char *now;       // NULL: the clock
} jj;

typedef struct jkw { const jstr *name; jval v; } jkw;
typedef struct jargs {
    jval  *v;
    size_t n;
    jkw   *kw;
    size_t nkw;
} jargs;

typedef struct jmacro {
    const jnode *node; // N_MACRO or N_CALLBLOCK
    jscope      *scope;
    const jstr  *name;
} jmacro;

typedef struct jloop {
    jval  *v;
    size_t n, i;
    int    depth0;
    jval   last_changed; // a tuple, or J_MISSING
    const jnode *node;   // N_FOR, for recursion
    jscope *scope;
} jloop;

// jinja_value.c: errors, memory, making values
_Noreturn void jj_fail(jj *j, status code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void  *jj_alloc(jj *j, size_t bytes);
void  *jj_array(jj *j, size_t n, size_t size);
// Counts work. What is compared, looked up, hashed or appended counts itself; a loop that does none of these counts each turn.
void   jj_step(jj *j, uint64_t n);
void   jj_enter(jj *j);                  // one level deeper; jj_leave before returning
static inline void jj_leave(jj *j) { j->depth--; }
void   jj_end(jj *j);                    // frees the buffers
void   jj_where(const char *source, size_t len, uint32_t pos, unsigned *line, unsigned *col);
const char *jj_type(const jval *v);      // as Python names it
static inline jval j_none(void) { return (jval){.kind = J_NONE, .trusted = true}; }
static inline jval j_bool(bool b) { return (jval){.kind = J_BOOL, .trusted = true, .u.b = b}; }
static inline jval j_int(int64_t i) { return (jval){.kind = J_INT, .trusted = true, .u.i = i}; }
static inline jval j_float(double f) { return (jval){.kind = J_FLOAT, .trusted = true, .u.f = f}; }
static inline jval j_undef(const char *name) { return (jval){.kind = J_UNDEF, .trusted = true, .u.name = name}; }
static inline jval j_str(const jstr *s) { return (jval){.kind = J_STR, .trusted = s->trusted, .u.s = s}; }
static inline jval j_missing(void) { return (jval){.kind = J_MISSING}; }
jval   j_list(jj *j, jkind kind, size_t cap);
void   j_push(jj *j, jval list, jval item);
jval   j_dict(jj *j);
void   j_dict_set(jj *j, jdict *d, jval k, jval v);
const jval *j_dict_get(jj *j, const jdict *d, const jval *k);
const jval *j_dict_gets(jj *j, const jdict *d, const char *key, size_t len);
jval   j_from_json(jj *j, const json_t *v, bool trusted);
bool   j_true(const jval *v);
bool   j_equal(jj *j, const jval *a, const jval *b);
int    j_compare(jj *j, const jval *a, const jval *b, const char *op); // numbers, strings, lists, tuples; fails on others
bool   j_number(const jval *v, double *f);            // bool, int, float
bool   j_integer(const jval *v, int64_t *i);          // bool, int
int64_t j_need_int(jj *j, const jval *v, const char *what);
bool   j_contains(jj *j, const jval *item, const jval *in);
bool   j_iterable(const jval *v);
jlist  j_iter(jj *j, const jval *v);                  // its items; uses up a generator; fails when it has none
int64_t j_length(jj *j, const jval *v);               // fails where Python's len() does
bool   j_has_length(const jval *v);

// jinja_text.c: strings with their origin
jbuf  *jbuf_new(jj *j);
void   jbuf_drop(jj *j, jbuf *b);
void   jbuf_add(jj *j, jbuf *b, const char *p, size_t n, bool trusted);
void   jbuf_addz(jj *j, jbuf *b, const char *text); // made up by us: untrusted
void   jbuf_adds(jj *j, jbuf *b, const jstr *s);
void   jbuf_part(jj *j, jbuf *b, const jstr *s, size_t from, size_t to); // bytes
const jstr *jbuf_done(jj *j, jbuf *b);              // the string, in the arena; the buffer is gone
const jstr *jstr_new(jj *j, const char *p, size_t n, bool trusted); // copies
const jstr *jstr_view(jj *j, const char *p, size_t n, bool trusted); // p outlives the render
const jstr *jstr_slice(jj *j, const jstr *s, size_t from, size_t to); // bytes, on character borders
size_t jstr_offset(jj *j, const jstr *s, size_t chr); // byte offset of a character
size_t jstr_next(const jstr *s, size_t at, uint32_t *cp); // the character at a byte; returns the byte after it
static inline bool jstr_trusted_at(const jstr *s, size_t at) { return s->o ? s->o[at] : s->trusted; }
bool   jstr_eq(const jstr *a, const jstr *b);
bool   jstr_is(const jstr *a, const char *b);
int    jstr_cmp(const jstr *a, const jstr *b);
size_t jstr_find(jj *j, const jstr *s, const jstr *needle, size_t from); // byte offset or SIZE_MAX
const jstr *jstr_strip(jj *j, const jstr *s, const jstr *set, bool left, bool right); // set NULL: whitespace
const jstr *jstr_replace(jj *j, const jstr *s, const jstr *from, const jstr *to, int64_t count);
const jstr *jstr_repeat(jj *j, const jstr *s, int64_t n);
const jstr *jstr_pad(jj *j, const jstr *s, size_t left, size_t right, const jstr *fill); // fill: one character
const jstr *jstr_escape(jj *j, const jstr *s);      // & < > ' "
const jstr *jstr_concat(jj *j, const jstr *a, const jstr *b);
typedef enum jcase { CASE_LOWER, CASE_UPPER, CASE_TITLE, CASE_CAPITALIZE, CASE_SWAP, CASE_FOLD } jcase;
const jstr *jstr_case(jj *j, const jstr *s, jcase how);
jval   jstr_split(jj *j, const jstr *s, const jstr *sep, int64_t max, bool from_right);
jval   jstr_splitlines(jj *j, const jstr *s, bool keep);

// jinja_unicode.c
bool     juni_space(uint32_t cp);
bool     juni_print(uint32_t cp);
bool     juni_alpha(uint32_t cp);
bool     juni_digit(uint32_t cp);
bool     juni_lower(uint32_t cp);
bool     juni_upper(uint32_t cp);
size_t   juni_case(uint32_t cp, bool upper, uint32_t out[3]); // full mapping; how many

// jinja_print.c: values to text
void   jprint_str(jj *j, jbuf *b, const jval *v);   // str()
void   jprint_repr(jj *j, jbuf *b, const jval *v);  // repr()
const jstr *jprint_string(jj *j, const jval *v);    // str() as a string
void   jprint_float(double f, char out[40]);        // repr of a float
typedef struct jjson { const jstr *indent, *item_sep, *key_sep; bool sort, ascii; } jjson;
void   jprint_json(jj *j, jbuf *b, const jval *v, const jjson *opt, int level);

// jinja_format.c
const jstr *jformat_percent(jj *j, const jstr *fmt, const jval *args);
const jstr *jformat_braces(jj *j, const jstr *fmt, const jargs *args);
const jstr *jformat_spec(jj *j, const jval *v, const jstr *spec);

// jinja_time.c
const jstr *jtime_strftime(jj *j, const jstr *fmt);

// jinja_lex.c, jinja_parse.c, jinja_parse_expr.c
typedef enum jtok_kind { T_EOF, T_DATA, T_VAR_BEGIN, T_VAR_END, T_BLOCK_BEGIN, T_BLOCK_END, T_NAME, T_STR, T_INT, T_FLOAT, T_OP } jtok_kind;
typedef struct jtok {
    uint8_t  kind;
    uint16_t op; // first character | second << 8
    uint32_t pos;
    const char *p;
    size_t   len;
    jval     val;
} jtok;
typedef struct jparser {
    jj    *j;
    jtok  *tok;
    size_t n, at;
    int    depth;
    bool   soft, in_loop; // soft: an unknown filter is refused only when reached
    unsigned saw;          // names that make a macro special
    chat_template *t;
    size_t atoms_cap;
} jparser;
void    jlex(jj *j, const char *p, size_t n, jtok **out, size_t *count);
jnode  *jparse(jparser *p);
void    jsymbols(jj *j, chat_template *t); // jinja_symbols.c
_Noreturn void jparse_fail(jparser *p, const jtok *t, const char *expected);
jnode  *jparse_node(jparser *p, jnode_kind kind);
bool    jparse_is_name(const jtok *t, const char *name);
bool    jparse_skip_name(jparser *p, const char *name);
bool    jparse_skip_op(jparser *p, const char *op);
bool    jparse_is_op(const jtok *t, const char *op);
void    jparse_expect_op(jparser *p, const char *op);
const jtok *jparse_name(jparser *p);
int32_t jparse_atom(jparser *p, const char *s, size_t n);
jnode  *jparse_expr(jparser *p, bool with_cond);
typedef enum jtuple_mode { TUPLE_FULL, TUPLE_NOCOND, TUPLE_NAMES } jtuple_mode;
jnode  *jparse_tuple(jparser *p, jtuple_mode mode, const char *end_name, bool parens);
jnode  *jparse_filters(jparser *p, jnode *n, bool start);
void    jparse_enter(jparser *p);

// jinja_eval.c, jinja_exec.c
jval    jeval(jj *j, const jnode *n);
jval    jeval_binary(jj *j, jop op, const jval *a, const jval *b);
jargs   jeval_args(jj *j, const jnode *list);
jval    jcall(jj *j, const jval *f, const jargs *args);
jval    jget_attr(jj *j, const jval *v, const jstr *name);
jval    jget_item(jj *j, const jval *v, const jval *key);
jval    jmacro_call(jj *j, jmacro *m, const jargs *args);
jval    jloop_recurse(jj *j, jloop *l, const jval *items);
jval    jloop_attr(jj *j, jloop *l, const jstr *name);
jval    jloop_call(jj *j, jloop *l, bool changed, const jargs *args);
void    jexec_body(jj *j, const jnode *n);
jval    jscope_get(jj *j, int32_t atom);
void    jscope_set(jj *j, int32_t atom, jval v);

// jinja_call.c: arguments of functions of ours, global functions
// Binds arguments to the space-separated names; those not given are J_MISSING. The first `need` must be there.
void    jbind(jj *j, const jargs *a, const char *what, const char *names, size_t need, jval *out);
typedef enum jfunc { F_RANGE, F_DICT, F_NAMESPACE, F_CYCLER, F_JOINER, F_RAISE, F_STRFTIME, F_LIPSUM, F_LOOP_CYCLE, F_LOOP_CHANGED, F_CYCLER_NEXT, F_CYCLER_RESET } jfunc;
jval    jfunc_global(const jstr *name); // J_MISSING when there is none
jval    jfunc_call(jj *j, jfunc f, const jval *self, const jargs *a);
const jstr *j_need_str(jj *j, const jval *v, const char *what);

// jinja_methods.c
typedef struct jmethod {
    const char *name;
    uint32_t    kinds; // of which values: bits of jkind
    jval (*fn)(jj *j, const jval *self, const jargs *a); // NULL: it exists, and calling it is refused
} jmethod;
const jmethod *jmethod_find(const jval *self, const jstr *name);

// jinja_filters.c, jinja_filters_seq.c, jinja_tests.c
typedef jval (*jfilter_fn)(jj *j, const jval *v, const jargs *a);
typedef struct jfilter { const char *name; jfilter_fn fn; } jfilter;
extern const jfilter jfilters_text[], jfilters_seq[]; // end with a NULL name
int     jfilter_find(const char *name, size_t n);  // -1: none
jval    jfilter_call(jj *j, int id, const jval *v, const jargs *a);
int     jtest_find(const char *name, size_t n);
bool    jtest_call(jj *j, int id, const jval *v, const jargs *a);

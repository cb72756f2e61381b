// tools/toy/toy_corpus: draws conversations from facts.txt.
//
// facts.txt, line by line (the file's head explains it too):
//   S a b c        words that may stand for each other in a question
//   M name = text  a macro, used as <name>
//   P text         a system prompt;  B text / E text: what may stand before or after a question
//   FN/FH/FT text  frames around a noun phrase, a verb phrase, a topic: * is where it goes
//   # id           a fact begins;  A answer (exactly one);  Q whole question;  N, H, T phrases for the frames;  R relative weight
// Everywhere (a|b|c) is a choice and may be nested, (a|) may be nothing. Sums and stories are made by code.
//
// A drawn question that comes too near to a held-out one is drawn again: see too_near.
#include <ctype.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "toy.h"

const char *const role_name[3] = {"system", "user", "assistant"};

typedef struct list { char **s; int n, cap; } list;
typedef struct fact { char *id, *answer; list q, n, h, t; double weight; } fact;
enum { WORDS_MAX = 48, MACROS_MAX = 64 };
typedef struct bag { int n; uint64_t w[WORDS_MAX]; } bag; // the words of a normalized question, hashed, in order

struct corpus {
    list same, system, before, after, frame_n, frame_h, frame_t;
    struct { char *name, *text; } macro[MACROS_MAX];
    int    n_macros;
    fact  *fact;
    int    n_facts;
    double total;
    bag   *held;
    int    n_held;
    long   refused;
};

static void add(list *l, char *s) {
    if (l->n == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 16;
        l->s = realloc(l->s, (size_t)l->cap * sizeof *l->s);
        if (!l->s)
            toy_die("out of memory");
    }
    l->s[l->n++] = s;
}

// ---- near the held-out questions? ---------------------------------------------------------------------------------------------
static bag bag_of(const char *s) {
    bag b = {0};
    while (*s && b.n < WORDS_MAX) {
        uint64_t h = 1469598103934665603u;
        int len = 0;
        for (; *s && !isspace((unsigned char)*s); s++)
            if (isalnum((unsigned char)*s) || *s == '/' || *s == '-' || *s == '_' || *s == '+') {
                h = (h ^ (unsigned)tolower((unsigned char)*s)) * 1099511628211u;
                len++;
            }
        if (len)
            b.w[b.n++] = h;
        while (isspace((unsigned char)*s))
            s++;
    }
    return b;
}

static bool same_words(const bag *a, const bag *b) { // in any order
    if (a->n != b->n)
        return false;
    uint64_t x = 0, y = 0;
    for (int i = 0; i < a->n; i++)
        x += a->w[i] * (a->w[i] | 1), y += b->w[i] * (b->w[i] | 1);
    return x == y;
}

// Words to insert, drop or change to make a of b; anything over `most` is as good as most + 1.
static int apart(const bag *a, const bag *b, int most) {
    int row[WORDS_MAX + 1];
    if (abs(a->n - b->n) > most)
        return most + 1;
    for (int j = 0; j <= b->n; j++)
        row[j] = j;
    for (int i = 1; i <= a->n; i++) {
        int corner = row[0], least = row[0] = i;
        for (int j = 1; j <= b->n; j++) {
            int change = corner + (a->w[i - 1] != b->w[j - 1]);
            corner = row[j];
            row[j] = row[j] < row[j - 1] ? row[j] + 1 : row[j - 1] + 1;
            if (change < row[j])
                row[j] = change;
            if (row[j] < least)
                least = row[j];
        }
        if (least > most)
            return most + 1;
    }
    return row[b->n];
}

static bool inside(const bag *a, const bag *b) { // a's words, in a row, somewhere in b's
    for (int i = 0; i + a->n <= b->n; i++)
        if (!memcmp(a->w, b->w + i, (size_t)a->n * sizeof *a->w))
            return true;
    return false;
}

// Too near: the same words in any order, the held-out question inside this one, or one word apart (two where it has seven or more).
static bool too_near(corpus *c, const char *question) {
    bag b = bag_of(question);
    for (int i = 0; i < c->n_held; i++) {
        const bag *h = &c->held[i];
        int most = h->n >= 7 ? 2 : 1;
        if (same_words(&b, h) || (h->n > 2 && inside(h, &b)) || apart(h, &b, most) <= most) {
            __atomic_fetch_add(&c->refused, 1, __ATOMIC_RELAXED);
            return true;
        }
    }
    return false;
}

long corpus_refused(const corpus *c) { return c->refused; }
int  corpus_facts(const corpus *c) { return c->n_facts; }

// ---- reading ------------------------------------------------------------------------------------------------------------------
static void read_line(corpus *c, char *line, int number) {
    size_t k = strcspn(line, " ");
    char *rest = line + k + (line[k] ? 1 : 0);
    line[k] = 0;
    fact *f = c->n_facts ? &c->fact[c->n_facts - 1] : NULL;
    const struct { const char *key; list *to; } shared[] = {{"S", &c->same}, {"P", &c->system}, {"B", &c->before}, {"E", &c->after},
                                                            {"FN", &c->frame_n}, {"FH", &c->frame_h}, {"FT", &c->frame_t}};
    for (size_t i = 0; i < sizeof shared / sizeof *shared; i++)
        if (!strcmp(line, shared[i].key)) {
            add(shared[i].to, rest);
            return;
        }
    if (!strcmp(line, "M")) {
        char *eq = strstr(rest, " = ");
        if (!eq || c->n_macros == MACROS_MAX)
            toy_die("facts, line %d: a macro is `M name = text`", number);
        *eq = 0;
        c->macro[c->n_macros].name = rest;
        c->macro[c->n_macros++].text = eq + 3;
    } else if (!strcmp(line, "#")) {
        c->fact = realloc(c->fact, (size_t)(c->n_facts + 1) * sizeof *c->fact);
        c->fact[c->n_facts++] = (fact){.id = rest, .weight = 1};
    } else if (f && !strcmp(line, "A")) {
        f->answer = rest;
    } else if (f && !strcmp(line, "R")) {
        f->weight = atof(rest);
    } else if (f && strlen(line) == 1 && strchr("QNHT", *line)) {
        add(*line == 'Q' ? &f->q : *line == 'N' ? &f->n : *line == 'H' ? &f->h : &f->t, rest);
    } else {
        toy_die("facts, line %d: unknown line `%s %s`", number, line, rest);
    }
}

corpus *corpus_open(const char *facts, const char *const *heldout) {
    corpus *c = toy_alloc(sizeof *c);
    size_t len;
    int number = 0;
    for (char *s = toy_read(facts, &len), *line; (line = strsep(&s, "\n"));) {
        number++;
        if (*line && strncmp(line, "//", 2))
            read_line(c, line, number);
    }
    for (int i = 0; i < c->n_facts; i++) {
        fact *f = &c->fact[i];
        if (!f->answer || f->q.n + f->n.n + f->h.n + f->t.n == 0)
            toy_die("facts: %s lacks an answer or questions", f->id);
        c->total += f->weight;
    }
    for (; *heldout; heldout++)
        for (char *s = toy_read(*heldout, &len), *line; (line = strsep(&s, "\n"));) {
            char *tab = strchr(line, '\t');
            if (!tab || *line == '#')
                continue;
            *tab = 0;
            c->held = realloc(c->held, (size_t)(c->n_held + 1) * sizeof *c->held);
            c->held[c->n_held++] = bag_of(line);
        }
    return c;
}

// ---- the little grammar -------------------------------------------------------------------------------------------------------
typedef struct out { char *s; size_t n, max; } out;

static void put(out *o, char ch) {
    if (o->n + 1 < o->max)
        o->s[o->n++] = ch;
    o->s[o->n] = 0;
}

// Where the group that opens before s closes; bars are the choices at its level.
static const char *group_end(const char *s, const char **start, int *n) {
    int depth = 0;
    *n = 0;
    start[(*n)++] = s;
    for (; *s; s++) {
        if (*s == '(')
            depth++;
        else if (*s == ')' && depth-- == 0)
            return s;
        else if (*s == '|' && depth == 0 && *n < 63)
            start[(*n)++] = s + 1;
    }
    toy_die("facts: a ( is never closed: %s", start[0]);
}

static void expand(const corpus *c, rng *r, const char *s, const char *end, out *o) {
    while (s < end) {
        if (*s == '(') {
            const char *start[64];
            int n;
            const char *close = group_end(s + 1, start, &n);
            int pick = rng_below(r, n);
            expand(c, r, start[pick], pick + 1 < n ? start[pick + 1] - 1 : close, o);
            s = close + 1;
        } else if (*s == '<') {
            size_t k = strcspn(s + 1, ">");
            int i = 0;
            while (i < c->n_macros && (strlen(c->macro[i].name) != k || strncmp(c->macro[i].name, s + 1, k)))
                i++;
            if (i == c->n_macros)
                toy_die("facts: no such macro: %.*s", (int)k, s + 1);
            expand(c, r, c->macro[i].text, c->macro[i].text + strlen(c->macro[i].text), o);
            s += k + 2;
        } else {
            put(o, *s++);
        }
    }
}

static void say(const corpus *c, rng *r, const char *s, char *to, size_t max) {
    out o = {to, 0, max};
    to[0] = 0;
    expand(c, r, s, s + strlen(s), &o);
    size_t n = 0; // choices that were nothing leave double spaces
    for (size_t i = 0; i < o.n; i++)
        if (to[i] != ' ' || (n && to[n - 1] != ' '))
            to[n++] = to[i];
    while (n && to[n - 1] == ' ')
        n--;
    to[n] = 0;
}

static const char *any(const list *l, rng *r) { return l->s[rng_below(r, l->n)]; }

static void framed(const corpus *c, rng *r, const list *frames, const char *phrase, char *to, size_t max) {
    char frame[TEXT_MAX], inner[TEXT_MAX];
    say(c, r, any(frames, r), frame, sizeof frame);
    say(c, r, phrase, inner, sizeof inner);
    char *star = strchr(frame, '*');
    if (!star)
        toy_die("facts: a frame without *: %s", frame);
    snprintf(to, max, "%.*s%s%s", (int)(star - frame), frame, inner, star + 1);
}

// ---- noise: synonyms, dropped small words, slips of the finger, case and punctuation ------------------------------------------
static void synonyms(const corpus *c, rng *r, char *text, size_t max) {
    char copy[TEXT_MAX], *s = copy, *w;
    size_t n = 0;
    static const char *const small[] = {"the", "a", "an", "my", "to", "do", "does", "is", "of", "for", "i", "it", "that", "can"};
    snprintf(copy, sizeof copy, "%s", text);
    while ((w = strsep(&s, " "))) {
        char use[128];
        snprintf(use, sizeof use, "%s", w);
        if (rng_chance(r, 0.25))
            for (int i = 0; i < c->same.n; i++) {
                char set[400], *t = set, *x, *choice[24];
                int k = 0, hit = 0;
                snprintf(set, sizeof set, "%s", c->same.s[i]);
                while ((x = strsep(&t, " ")) && k < 24) {
                    hit |= !strcmp(x, w);
                    choice[k++] = x;
                }
                if (hit) {
                    snprintf(use, sizeof use, "%s", choice[rng_below(r, k)]);
                    for (char *p = use; *p; p++)
                        if (*p == '_')
                            *p = ' ';
                    break;
                }
            }
        bool drop = false;
        for (size_t i = 0; i < sizeof small / sizeof *small; i++)
            if (!strcmp(w, small[i]))
                drop = rng_chance(r, 0.08);
        if (!drop && n + strlen(use) + 2 < max)
            n += (size_t)sprintf(text + n, "%s%s", n ? " " : "", use);
    }
}

static void insert_adverb(rng *r, char *text, size_t max) {
    static const char *const adverb[] = {"exactly", "actually", "really", "just", "then", "now", "simply", "also",
                                         "normally", "usually", "best", "maybe", "please", "ever", "even"};
    char copy[TEXT_MAX];
    size_t spaces = 0, i = 0;
    for (size_t k = 0; text[k]; k++)
        spaces += text[k] == ' ';
    if (spaces < 2 || strlen(text) + 12 > max)
        return;
    for (size_t at = 1 + (size_t)rng_below(r, (int)spaces); at; i++)
        at -= text[i] == ' ';
    snprintf(copy, sizeof copy, "%s", text + i);
    snprintf(text + i, max - i, "%s %s", adverb[rng_below(r, 15)], copy);
}

static void slip(rng *r, char *text) { // one slip in one plain word
    size_t n = strlen(text);
    for (int tries = 0; tries < 8 && n > 6; tries++) {
        size_t i = 1 + (size_t)rng_below(r, (int)n - 3);
        if (!isalpha((unsigned char)text[i - 1]) || !isalpha((unsigned char)text[i]) || !isalpha((unsigned char)text[i + 1]))
            continue;
        char a = text[i];
        switch (rng_below(r, 3)) {
        case 0: text[i] = text[i + 1], text[i + 1] = a; return;
        case 1: memmove(text + i, text + i + 1, n - i); return;
        default: text[i] = (char)('a' + rng_below(r, 26)); return;
        }
    }
}

static void dress(const corpus *c, rng *r, char *text, size_t max) {
    char part[TEXT_MAX], extra[TEXT_MAX];
    synonyms(c, r, text, max);
    if (rng_chance(r, 0.1))
        insert_adverb(r, text, max);
    if (rng_chance(r, 0.2)) {
        say(c, r, any(&c->before, r), extra, sizeof extra);
        snprintf(part, sizeof part, "%s %s", extra, text);
        snprintf(text, max, "%s", part);
    }
    if (rng_chance(r, 0.15)) {
        say(c, r, any(&c->after, r), extra, sizeof extra);
        snprintf(part, sizeof part, "%s %s", text, extra);
        snprintf(text, max, "%s", part);
    }
    if (rng_chance(r, 0.07))
        slip(r, text);
    size_t n = strlen(text);
    if (rng_chance(r, 0.55))
        text[0] = (char)toupper((unsigned char)text[0]);
    if (rng_chance(r, 0.02))
        for (size_t i = 0; i < n; i++)
            text[i] = (char)toupper((unsigned char)text[i]);
    if (rng_chance(r, 0.1))
        for (size_t i = 0; i < n; i++)
            text[i] = (char)tolower((unsigned char)text[i]);
    if (n && n + 2 < max && isalnum((unsigned char)text[n - 1])) {
        double p = rng_unit(r);
        strcat(text, p < 0.62 ? "?" : p < 0.74 ? "." : p < 0.77 ? "!" : "");
    }
}

// ---- sums and stories ---------------------------------------------------------------------------------------------------------
static void draw_sum(rng *r, char *q, char *a) {
    static const char *const digit[] = {"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"};
    static const char *const form[] = {
        "what is %s %s %s", "%s %s %s", "%s %s %s =", "how much is %s %s %s", "what's %s %s %s", "calculate %s %s %s", "compute %s %s %s",
        "can you add %s %s %s", "add %s %s %s", "%s %s %s equals", "what does %s %s %s make", "tell me %s %s %s", "solve %s %s %s",
        "the sum of %s %s %s", "what is the sum of %s %s %s", "what do you get for %s %s %s", "how many are %s %s %s",
        "what does %s %s %s equal", "please work out %s %s %s", "a sum: %s %s %s", "what comes out of %s %s %s", "i have %s %s %s, how many is that"};
    int x = rng_below(r, 10), y = rng_below(r, 10), f = rng_below(r, (int)(sizeof form / sizeof *form));
    char sx[16], sy[16];
    bool words = rng_chance(r, 0.15);
    snprintf(sx, sizeof sx, words ? "%s" : "%.0s%d", digit[x], x);
    snprintf(sy, sizeof sy, words ? "%s" : "%.0s%d", digit[y], y);
    bool add = strstr(form[f], "add ") || strstr(form[f], "sum of");
    const char *sign = add ? (rng_chance(r, 0.8) ? "and" : "plus") : rng_chance(r, 0.6) ? "+" : rng_chance(r, 0.7) ? "plus" : "and";
    snprintf(q, TEXT_MAX, form[f], sx, sign, sy);
    if (!words && !strcmp(sign, "+") && rng_chance(r, 0.3)) { // 3+4
        char *plus = strstr(q, " + ");
        if (plus) {
            plus[0] = '+';
            memmove(plus + 1, plus + 3, strlen(plus + 3) + 1);
        }
    }
    snprintf(a, TEXT_MAX, "%d + %d = %d.", x, y, x + y);
}

static void draw_story(const corpus *c, rng *r, char *q, char *a) {
    static const char *const hero[] = {"fox", "cat", "dog", "bear", "mouse", "bird", "rabbit", "owl", "frog", "horse", "duck", "fish",
                                       "dragon", "robot", "girl", "boy", "king", "princess", "wolf", "turtle"};
    static const char *const name[] = {"Tim", "Lily", "Max", "Anna", "Ben", "Mia", "Sam", "Lucy", "Tom", "Rose"};
    static const char *const found[] = {"a red ball", "a shiny key", "a lost kitten", "a small boat", "an old map", "a warm hat", "a big apple", "a little lamp"};
    static const char *const place[] = {"in the forest", "by the river", "on a hill", "in the garden", "near the sea", "under a tree"};
    static const char *const end[] = {"They became good friends", "Everyone was happy", "It was the best day of all", "Then they all went home and slept well"};
    int h = rng_below(r, 20);
    bool named = rng_chance(r, 0.6);
    char ask[TEXT_MAX];
    say(c, r, named ? "<storyask> about (a|the|some) @" : "<storyask>", ask, sizeof ask);
    char *at = strchr(ask, '@');
    if (at)
        snprintf(q, TEXT_MAX, "%.*s%s%s", (int)(at - ask), ask, hero[h], at + 1);
    else
        snprintf(q, TEXT_MAX, "%s", ask);
    snprintf(a, TEXT_MAX, "Once upon a time a %s named %s lived %s. One day the %s found %s. A friend came and asked for help, and the %s shared it. %s. The end.",
             hero[h], name[rng_below(r, 10)], place[rng_below(r, 6)], hero[h], found[rng_below(r, 8)], hero[h], end[rng_below(r, 4)]);
}

// ---- conversations ------------------------------------------------------------------------------------------------------------
static void draw_fact(const corpus *c, rng *r, char *q, char *a) {
    double p = rng_unit(r) * c->total;
    int i = 0;
    while (i + 1 < c->n_facts && (p -= c->fact[i].weight) >= 0)
        i++;
    const fact *f = &c->fact[i];
    const list *kind[] = {&f->q, &f->n, &f->h, &f->t};
    const list *frames[] = {NULL, &c->frame_n, &c->frame_h, &c->frame_t};
    int lines = f->q.n + f->n.n + f->h.n + f->t.n, pick = rng_below(r, lines), k = 0;
    while (pick >= kind[k]->n)
        pick -= kind[k++]->n;
    if (k == 0)
        say(c, r, kind[0]->s[pick], q, TEXT_MAX);
    else
        framed(c, r, frames[k], kind[k]->s[pick], q, TEXT_MAX);
    say(c, r, f->answer, a, TEXT_MAX);
}

static void draw_pair(corpus *c, rng *r, turn *user, turn *answer) {
    bool near;
    user->who = ROLE_USER, answer->who = ROLE_ASSISTANT;
    do {
        double p = rng_unit(r);
        if (p < 0.86) {
            draw_fact(c, r, user->text, answer->text);
            near = too_near(c, user->text); // before the noise, and after
            dress(c, r, user->text, 200);
        } else if (p < 0.95) {
            draw_sum(r, user->text, answer->text);
            near = false;
            if (rng_chance(r, 0.7) && isalnum((unsigned char)user->text[strlen(user->text) - 1]))
                strcat(user->text, "?");
            if (rng_chance(r, 0.5))
                user->text[0] = (char)toupper((unsigned char)user->text[0]);
        } else {
            draw_story(c, r, user->text, answer->text);
            near = too_near(c, user->text);
            dress(c, r, user->text, 200);
        }
    } while (near || too_near(c, user->text));
}

void corpus_draw(corpus *c, uint64_t seed, uint64_t number, talk *t) {
    rng r = {seed * 0x9E3779B97F4A7C15u ^ (number + 1) * 0xD1342543DE82EF95u};
    int pairs = rng_chance(&r, 0.88) ? 1 : 2 + rng_below(&r, 2);
    rng_next(&r);
    t->n = 0;
    if (rng_chance(&r, 0.1)) {
        t->turns[t->n].who = ROLE_SYSTEM;
        say(c, &r, any(&c->system, &r), t->turns[t->n++].text, TEXT_MAX);
    }
    for (int i = 0; i < pairs; i++, t->n += 2)
        draw_pair(c, &r, &t->turns[t->n], &t->turns[t->n + 1]);
}

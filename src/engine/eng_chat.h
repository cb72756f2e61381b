// engine/eng_chat: conversations (a JSON object as altiserve_template takes it) to prompts.
#pragma once
#include "engine/eng_models.h"

// Renders with the file's template (or ChatML) and turns the spans into ids; the file's text must be ready.
status eng_file_encode_chat(eng_file *f, const char *input, size_t len, tok_ids *out, error *err);

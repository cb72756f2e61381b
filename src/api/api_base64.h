// api/api_base64: bytes as text (RFC 4648, section 4), by GnuTLS, whose headers nothing else of this room includes. Any thread.
#pragma once
#include "base/mem.h"

bool api_put_base64(strbuf *out, const unsigned char *bytes, size_t n); // false when memory is gone

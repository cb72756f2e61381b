#include "api/api_base64.h"

#include <gnutls/gnutls.h>
#include <limits.h>

bool api_put_base64(strbuf *out, const unsigned char *bytes, size_t n) {
    gnutls_datum_t text = {0};
    if (!n) return true;
    if (n > UINT_MAX || gnutls_base64_encode2(&(gnutls_datum_t){(unsigned char *)bytes, (unsigned)n}, &text) < 0) return false;
    bool ok = strbuf_add(out, (const char *)text.data, text.size);
    gnutls_free(text.data);
    return ok;
}

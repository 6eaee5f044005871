/* One line in, one line out: the words `op key=value ...` of a call, and the JSON object of its answer. */
#include "executor.h"
#include <stdarg.h>

#define MAX_WORDS 64
const char *operation;
static struct { const char *key, *value; } words[MAX_WORDS];
static int count;
static char out[1 << 17];
static size_t used;
const char *answer_text(void);
void answer_start(void);

void words_read(char *line)
{
    char *rest;

    count = 0;
    operation = strtok_r(line, " ", &rest);
    for (char *item; (item = strtok_r(NULL, " ", &rest)) && count < MAX_WORDS; count++) {
        char *equals = strchr(item, '=');

        if (equals)
            *equals = 0;
        words[count].key = item;
        words[count].value = equals ? equals + 1 : "";
    }
}

const char *word(const char *key)
{
    for (int i = 0; i < count; i++)
        if (!strcmp(words[i].key, key))
            return words[i].value;
    return NULL;
}

int64_t number(const char *key, int64_t otherwise)
{
    const char *text = word(key);

    if (!text || !*text)
        return otherwise;
    return *text == '-' ? strtoll(text, NULL, 0) : (int64_t)strtoull(text, NULL, 0);
}

void answer_start(void)
{
    used = 0;
    out[0] = 0;
}

void answer(const char *format, ...)
{
    va_list list;

    va_start(list, format);
    used += (size_t)vsnprintf(out + used, sizeof out - used, format, list);
    va_end(list);
    if (used >= sizeof out)
        used = sizeof out - 1;
}

const char *answer_text(void)
{
    return out;
}

/* Load generator for HTTP, over TLS or a unix socket: threads on libcurl, so that Python is not what is measured.
 *
 * Each client is a thread that does what a program with one kept connection does: a request, its whole answer, the next
 * request. Each makes its connection, with one request, before the clock starts; a client that comes for one request
 * only (FRESH) makes one each time. Work is handed out by one counter. Every answer is looked at: its status and a word
 * it must hold, TIMES times (once for each job of a bulk submission).
 *
 *   http_load CLIENTS COUNT METHOD URL STATUS WORD TIMES KEYED FRESH BODY_BYTES [SOCKET]
 *
 * KEYED 1: an Idempotency-Key of its own in each request. Standard input: header lines, an empty line, the body; then,
 * after it has said "ready", a line that starts the clock. Prints one line of JSON. Trusted are the authorities in the
 * file that SSL_CERT_FILE names.
 */
#include <curl/curl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>

enum { ANSWER = 64 * 1024, LINE = 8192, WAIT_S = 120, KEY = 32 };

struct answer {
    size_t length;
    char text[ANSWER + 1];
};

static const char *method, *url, *word, *unix_socket;
static long count, status;
static int times, keyed, fresh;
static struct curl_slist *headers;
static char *body;
static size_t body_length;
static float *latency;
static char why[512];
static atomic_long next_number, done, errors;
static pthread_barrier_t connected, counted;
static pthread_mutex_t first_error = PTHREAD_MUTEX_INITIALIZER;

static void die(const char *what) {
    fprintf(stderr, "http_load: %s\n", what);
    exit(2);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double cpu(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* One client. */

static size_t take_answer(char *data, size_t size, size_t items, void *user) {
    struct answer *answer = user;
    size_t length = size * items, room = ANSWER - answer->length;
    memcpy(answer->text + answer->length, data, length < room ? length : room);
    answer->length += length < room ? length : room;
    return length;
}

static void note_error(const char *what, long code, const char *said) {
    pthread_mutex_lock(&first_error);
    if (!why[0])
        snprintf(why, sizeof why, "%s %ld %.400s", what, code, said);
    pthread_mutex_unlock(&first_error);
}

/* The list that every request of a client has; a key's place in it is written anew each time. */
static struct curl_slist *own_headers(char **key) {
    struct curl_slist *list = NULL, *made = NULL;
    for (const struct curl_slist *one = headers; one; one = one->next)
        list = curl_slist_append(list, one->data);
    if (keyed) {
        list = curl_slist_append(list, "Idempotency-Key: ................................");
        for (made = list; made->next; made = made->next)
            ;
        *key = made->data + strlen(made->data) - KEY;
    }
    return list;
}

static void new_key(char *key) {
    unsigned char bytes[KEY / 2];
    if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes)
        die("getrandom");
    for (size_t i = 0; i < sizeof bytes; i++)
        key[2 * i] = "0123456789abcdef"[bytes[i] >> 4], key[2 * i + 1] = "0123456789abcdef"[bytes[i] & 15];
}

static CURL *prepared(struct curl_slist *list, struct answer *answer) {
    CURL *curl = curl_easy_init();
    if (!curl)
        die("curl_easy_init");
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, list);
    curl_easy_setopt(curl, CURLOPT_PROXY, "");
    curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, (long)WAIT_S);
    curl_easy_setopt(curl, CURLOPT_FORBID_REUSE, (long)fresh);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_answer);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, answer);
    if (getenv("SSL_CERT_FILE"))
        curl_easy_setopt(curl, CURLOPT_CAINFO, getenv("SSL_CERT_FILE"));
    if (unix_socket)
        curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, unix_socket);
    if (body_length) {
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, (long)body_length);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
    }
    return curl;
}

static int occurs(const char *text) {
    int found = 0;
    for (; (text = strstr(text, word)); text += strlen(word))
        found++;
    return found;
}

static int ask(CURL *curl, struct answer *answer, char *key) {
    long code = 0;
    answer->length = 0;
    if (key)
        new_key(key);
    CURLcode failed = curl_easy_perform(curl);
    answer->text[answer->length] = 0;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &code);
    if (failed)
        note_error(curl_easy_strerror(failed), code, "");
    else if (code != status || occurs(answer->text) < times)
        note_error("answered", code, answer->text);
    else
        return 0;
    return 1;
}

static void *client(void *unused) {
    char *key = NULL;
    struct curl_slist *list = own_headers(&key);
    struct answer *answer = malloc(sizeof *answer);
    CURL *curl = prepared(list, answer);
    if (ask(curl, answer, key))
        atomic_fetch_add(&errors, 1);
    pthread_barrier_wait(&connected);
    pthread_barrier_wait(&counted);
    for (long number; (number = atomic_fetch_add(&next_number, 1)) < count;) {
        double began = now();
        atomic_fetch_add(ask(curl, answer, key) ? &errors : &done, 1);
        latency[number] = (float)((now() - began) * 1e3);
    }
    curl_easy_cleanup(curl);
    free(answer);
    return unused;
}

/* Before and after. */

static char *take_line(char *line, int size) {
    if (!fgets(line, size, stdin) || !strchr(line, '\n'))
        die("a line is missing, or too long");
    *strchr(line, '\n') = 0;
    return line;
}

static void read_input(size_t length) {
    char line[LINE];
    while (*take_line(line, sizeof line))
        headers = curl_slist_append(headers, line);
    body_length = length;
    body = malloc(length + 1);
    if (!body || fread(body, 1, length, stdin) != length)
        die("the body is not whole");
}

static int compare(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double at(double share) { return count ? latency[(long)(share * (double)(count - 1))] : 0; }

static void print_escaped(const char *text) {
    for (; *text; text++)
        if (*text == '"' || *text == '\\')
            printf("\\%c", *text);
        else
            putchar(*text < ' ' ? ' ' : *text);
}

int main(int argc, char **argv) {
    char line[LINE];
    if (argc != 11 && argc != 12)
        die("usage: see the head of http_load.c");
    int clients = atoi(argv[1]);
    count = atol(argv[2]), method = argv[3], url = argv[4], status = atol(argv[5]), word = argv[6];
    times = atoi(argv[7]), keyed = atoi(argv[8]), fresh = atoi(argv[9]), unix_socket = argv[11];
    curl_global_init(CURL_GLOBAL_ALL);
    read_input((size_t)atol(argv[10]));
    latency = calloc((size_t)count + 1, sizeof *latency);
    pthread_t *threads = calloc((size_t)clients, sizeof *threads);
    pthread_barrier_init(&connected, NULL, (unsigned)clients + 1);
    pthread_barrier_init(&counted, NULL, (unsigned)clients + 1);
    for (int i = 0; i < clients; i++)
        if (pthread_create(&threads[i], NULL, client, NULL))
            die("cannot make a thread");
    pthread_barrier_wait(&connected);
    printf("ready\n");
    fflush(stdout);
    take_line(line, sizeof line);
    double used = cpu(), begin = now();
    pthread_barrier_wait(&counted);
    for (int i = 0; i < clients; i++)
        pthread_join(threads[i], NULL);
    double seconds = now() - begin;
    used = cpu() - used;
    qsort(latency, (size_t)count, sizeof *latency, compare);
    printf("{\"done\": %ld, \"errors\": %ld, \"seconds\": %.4f, \"p50_ms\": %.3f, \"p95_ms\": %.3f, \"max_ms\": %.3f,"
           " \"client_cpu_s\": %.6f, \"why\": \"",
           atomic_load(&done), atomic_load(&errors), seconds, at(0.5), at(0.95), at(1), used);
    print_escaped(why);
    printf("\"}\n");
    return 0;
}

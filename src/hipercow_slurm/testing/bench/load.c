/* Load generator for a server of the AUKS wire: forked clients on libkrb5, so that Python is not what is measured.
 *
 * Every client does what a stock one does: TCP connection, AP exchange in two round trips, K sealed requests, CLOSE.
 * The service ticket is obtained once, before the clock starts. Work is handed out by one shared counter.
 *
 *   load ADDRESS PORT SERVICE VERB CLIENTS PER_CONNECTION SECONDS FIRST COUNT ITEMS_FILE ITEMS QUICKACK
 *
 * VERB: ping add get remove dump, or renew (asks the KDC, not the server). COUNT 0: no limit but SECONDS.
 * ITEMS_FILE: records of u32 uid, u32 length, KRB-CRED; requests go round its first ITEMS records, from number FIRST.
 * Prints one line of JSON.
 */
#include <arpa/inet.h>
#include <krb5.h>
#include <netinet/tcp.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PING = 0, ADD = 2, GET = 3, REMOVE = 4, CLOSE = 5, DUMP = 6, RENEW = 100 };
enum { REPLY = 20, MOST = 4000000, WAIT_S = 300 };

struct item {
    uint32_t uid, length;
    const unsigned char *data;
};

struct shared {
    atomic_long next, done, errors;
    atomic_int waiting, go;
    double end;
    long bytes, records;
    float ms[];
};

static struct shared *shared;
static struct item *items;
static long item_count, first, count_limit, per_connection;
static int verb, quickack;
static struct sockaddr_in server;
static krb5_creds *ticket;
static krb5_context context;

static void die(const char *what, krb5_error_code code) {
    fprintf(stderr, "load: %s: %s\n", what, code ? krb5_get_error_message(context, code) : "failed");
    exit(2);
}

static void need(const char *what, krb5_error_code code) {
    if (code)
        die(what, code);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static uint32_t word(const unsigned char *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void put_word(unsigned char *p, uint32_t v) {
    uint32_t big = htonl(v);
    memcpy(p, &big, 4);
}

/* Sockets: 0 when all bytes went through. */

static int send_all(int sock, const void *data, size_t left) {
    const char *p = data;
    while (left) {
        ssize_t n = send(sock, p, left, MSG_NOSIGNAL);
        if (n <= 0)
            return -1;
        p += n;
        left -= (size_t)n;
    }
    return 0;
}

static int read_all(int sock, void *data, size_t left) {
    char *p = data;
    while (left) {
        int on = 1;
        if (quickack) /* must be set again each time: what a client can do about a server that waits for its ACK */
            setsockopt(sock, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on);
        ssize_t n = recv(sock, p, left, 0);
        if (n <= 0)
            return -1;
        p += n;
        left -= (size_t)n;
    }
    return 0;
}

static int send_frame(int sock, const krb5_data *body) {
    unsigned char small[4096], *buffer = body->length + 4 > sizeof small ? malloc(body->length + 4) : small;
    put_word(buffer, body->length);
    memcpy(buffer + 4, body->data, body->length);
    int failed = send_all(sock, buffer, body->length + 4);
    if (buffer != small)
        free(buffer);
    return failed;
}

static int read_frame(int sock, krb5_data *body) {
    unsigned char head[4];
    body->data = NULL;
    if (read_all(sock, head, 4))
        return -1;
    body->length = word(head);
    body->data = malloc(body->length + 1UL);
    if (body->data && !read_all(sock, body->data, body->length))
        return 0;
    free(body->data);
    return -1;
}

/* One connection: socket and authentication context, or -1. */

static void set_addresses(krb5_auth_context auth, int sock) {
    struct sockaddr_in own;
    socklen_t size = sizeof own;
    krb5_address local = {0, ADDRTYPE_INET, 4, (krb5_octet *)&own.sin_addr};
    krb5_address remote = {0, ADDRTYPE_INET, 4, (krb5_octet *)&server.sin_addr};
    getsockname(sock, (struct sockaddr *)&own, &size);
    need("addresses", krb5_auth_con_setaddrs(context, auth, &local, &remote));
}

static int greet(int sock, krb5_auth_context *auth) {
    static const char hello[] = "\0\0\0\x13KRB5_SENDAUTH_V1.0\0\0\0\0\x04" "0.1";
    char status;
    krb5_data request = {0}, reply = {0};
    krb5_ap_rep_enc_part *part;
    need("AP-REQ", krb5_mk_req_extended(context, auth, AP_OPTS_MUTUAL_REQUIRED | AP_OPTS_USE_SUBKEY, NULL, ticket, &request));
    int failed = send_all(sock, hello, sizeof hello) || read_all(sock, &status, 1) || status || send_frame(sock, &request);
    krb5_free_data_contents(context, &request);
    if (failed || read_frame(sock, &reply))
        return -1;
    unsigned refused = reply.length;
    free(reply.data);
    if (refused || read_frame(sock, &reply))
        return -1;
    krb5_error_code code = krb5_rd_rep(context, *auth, &reply, &part);
    free(reply.data);
    if (code)
        return -1;
    krb5_free_ap_rep_enc_part(context, part);
    return 0;
}

static int open_connection(krb5_auth_context *auth) {
    int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    struct timeval limit = {WAIT_S, 0};
    if (sock < 0)
        return -1;
    setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    need("auth context", krb5_auth_con_init(context, auth));
    krb5_auth_con_setflags(context, *auth, KRB5_AUTH_CONTEXT_DO_SEQUENCE);
    if (!connect(sock, (struct sockaddr *)&server, sizeof server)) {
        set_addresses(*auth, sock);
        if (!greet(sock, auth))
            return sock;
    }
    krb5_auth_con_free(context, *auth);
    close(sock);
    return -1;
}

/* One sealed message; its answer must be the one that belongs to it. */

static int send_sealed(int sock, krb5_auth_context auth, unsigned char *message, size_t length) {
    krb5_data plain = {0, (unsigned)length, (char *)message}, sealed = {0};
    need("seal", krb5_mk_priv(context, auth, &plain, &sealed, NULL));
    int failed = send_frame(sock, &sealed);
    krb5_free_data_contents(context, &sealed);
    return failed;
}

static int ask(int sock, krb5_auth_context auth, const struct item *item) {
    unsigned char message[8 + 32768];
    size_t length = 4;
    krb5_data sealed, plain;
    put_word(message, (uint32_t)verb);
    if (verb == ADD) {
        put_word(message + 4, item->length);
        memcpy(message + 8, item->data, item->length);
        length = 8 + item->length;
    } else if (verb == GET || verb == REMOVE) {
        put_word(message + 4, item->uid);
        length = 8;
    }
    if (send_sealed(sock, auth, message, length) || read_frame(sock, &sealed))
        return -1;
    krb5_error_code code = krb5_rd_priv(context, auth, &sealed, &plain, NULL);
    shared->bytes = sealed.length;
    free(sealed.data);
    if (code)
        return -1;
    static const uint32_t answer[] = {[PING] = REPLY, [ADD] = 23, [GET] = 24, [REMOVE] = 25, [DUMP] = 26};
    const unsigned char *p = (unsigned char *)plain.data;
    int wrong = plain.length < 4 || word(p) != answer[verb];
    if (!wrong && verb == GET)
        wrong = plain.length < 165 + item->length || word(p + 4 + 133) != item->uid;
    if (!wrong && verb == DUMP)
        shared->records = word(p + 4);
    krb5_free_data_contents(context, &plain);
    return wrong ? 1 : 0;
}

/* What a client process does until time or work is over. */

static long take(void) {
    if (now() >= shared->end)
        return -1;
    long number = atomic_fetch_add(&shared->next, 1);
    return (count_limit && number >= count_limit) || number >= MOST ? -1 : number;
}

static void note(long number, double began, int failed) {
    shared->ms[number] = (float)((now() - began) * 1e3);
    atomic_fetch_add(failed ? &shared->errors : &shared->done, 1);
}

static void talk(void) {
    unsigned char bye[4] = {0, 0, 0, CLOSE};
    long number;
    while ((number = take()) >= 0) {
        double began = now();
        krb5_auth_context auth = NULL;
        int sock = open_connection(&auth);
        if (sock < 0) {
            note(number, began, 1);
            continue;
        }
        int failed = 0;
        for (long i = 0; number >= 0 && failed >= 0; i++) {
            failed = ask(sock, auth, item_count ? &items[(first + number) % item_count] : NULL);
            note(number, began, failed);
            if (failed < 0 || i + 1 >= per_connection)
                break;
            began = now();
            number = take();
        }
        if (failed >= 0)
            send_sealed(sock, auth, bye, sizeof bye);
        krb5_auth_con_free(context, auth);
        close(sock);
        if (number < 0)
            return;
    }
}

static void renew(void) {
    krb5_ccache cache;
    krb5_creds fresh;
    krb5_principal client;
    long number;
    need("ccache", krb5_cc_default(context, &cache));
    need("ccache", krb5_cc_get_principal(context, cache, &client));
    while ((number = take()) >= 0) {
        double began = now();
        krb5_error_code code = krb5_get_renewed_creds(context, &fresh, client, cache, NULL);
        note(number, began, code != 0);
        if (!code)
            krb5_free_cred_contents(context, &fresh);
    }
}

static void client(void) {
    need("context", krb5_init_context(&context));
    atomic_fetch_add(&shared->waiting, 1);
    while (!atomic_load(&shared->go))
        usleep(200);
    if (verb == RENEW)
        renew();
    else
        talk();
    exit(0);
}

/* Before and after. */

static void get_ticket(const char *service) {
    krb5_ccache cache;
    krb5_creds wanted = {0};
    need("context", krb5_init_context(&context));
    need("ccache", krb5_cc_default(context, &cache));
    need("ccache", krb5_cc_get_principal(context, cache, &wanted.client));
    need("service name", krb5_parse_name(context, service, &wanted.server));
    need("service ticket", krb5_get_credentials(context, 0, cache, &wanted, &ticket));
}

static void read_items(const char *path) {
    FILE *file = fopen(path, "rb");
    unsigned char head[8];
    items = calloc((size_t)item_count, sizeof *items);
    for (long i = 0; i < item_count; i++) {
        if (!file || fread(head, 1, 8, file) != 8)
            die("items file", 0);
        items[i] = (struct item){word(head), word(head + 4), NULL};
        unsigned char *data = malloc(items[i].length);
        if (items[i].length > 32768 || fread(data, 1, items[i].length, file) != items[i].length)
            die("items file", 0);
        items[i].data = data;
    }
    if (file)
        fclose(file);
}

static int compare(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double at(double share, long n) { return n ? shared->ms[(long)(share * (double)(n - 1))] : 0; }

static int verb_of(const char *name) {
    static const struct { const char *name; int verb; } known[] = {
        {"ping", PING}, {"add", ADD}, {"get", GET}, {"remove", REMOVE}, {"dump", DUMP}, {"renew", RENEW}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(name, known[i].name))
            return known[i].verb;
    die("unknown verb", 0);
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 13)
        die("usage: see the head of load.c", 0);
    server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2]))};
    inet_pton(AF_INET, argv[1], &server.sin_addr);
    verb = verb_of(argv[4]);
    int clients = atoi(argv[5]);
    per_connection = atol(argv[6]);
    first = atol(argv[8]);
    count_limit = atol(argv[9]);
    item_count = atol(argv[11]);
    quickack = atoi(argv[12]);
    shared = mmap(NULL, sizeof *shared + MOST * sizeof(float), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        die("mmap", 0);
    get_ticket(argv[3]);
    read_items(argv[10]);
    for (int i = 0; i < clients; i++)
        if (!fork())
            client();
    while (atomic_load(&shared->waiting) < clients)
        usleep(200);
    double begin = now();
    shared->end = begin + atof(argv[7]);
    atomic_store(&shared->go, 1);
    int status, broken = 0;
    while (wait(&status) > 0)
        broken += status != 0;
    double seconds = now() - begin;
    struct rusage used;
    getrusage(RUSAGE_CHILDREN, &used);
    double cpu = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) + (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    long done = atomic_load(&shared->done), errors = atomic_load(&shared->errors) + broken, all = done + errors - broken;
    qsort(shared->ms, (size_t)all, sizeof(float), compare);
    printf("{\"done\": %ld, \"errors\": %ld, \"seconds\": %.4f, \"p50_ms\": %.3f, \"p95_ms\": %.3f, \"max_ms\": %.3f,"
           " \"client_cpu_s\": %.3f, \"reply_bytes\": %ld, \"records\": %ld}\n",
           done, errors, seconds, at(0.5, all), at(0.95, all), at(1, all), cpu, shared->bytes, shared->records);
    return 0;
}

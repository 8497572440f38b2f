import com.fasterxml.jackson.annotation.JsonProperty;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.File;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.BooleanSupplier;

/** What both Java probes share: the plan that they are given, and the rows that they print. */
final class Running {
    private static final int DETAIL_CHARS = 900;
    static final ObjectMapper JSON = new ObjectMapper();

    /** One case: what goes wrong is thrown. */
    interface Case {
        void play(Target target) throws Exception;
    }

    /** Makes a probe's cases for an address, a key and a script. */
    interface Probe {
        Map<String, Case> cases(String url, String key, JsonNode script);
    }

    /** A provider behind Weir, by the names of its models. */
    record Target(JsonNode fields) {
        String get(String name) {
            return fields.path(name).asText();
        }
    }

    /** What `structured` and the tool's arguments hold. */
    public static class Place {
        @JsonProperty public String city;
        @JsonProperty public int days;
    }

    static void main(String client, String version, Probe probe, String plan) throws Exception {
        JsonNode given = JSON.readTree(new File(plan));
        Map<String, Case> cases =
                probe.cases(given.get("url").asText(), given.get("key").asText(), given.get("script"));
        for (JsonNode fields : given.get("targets")) {
            Target target = new Target(fields);
            for (JsonNode name : fields.get("cases").get(client)) {
                long begun = System.nanoTime();
                String detail = null;
                try {
                    cases.get(name.asText()).play(target);
                } catch (Exception | AssertionError error) {
                    StringWriter text = new StringWriter();
                    error.printStackTrace(new PrintWriter(text));
                    detail = text.toString().substring(0, Math.min(DETAIL_CHARS, text.toString().length()));
                }
                Map<String, Object> row = new LinkedHashMap<>();
                row.put("client", client);
                row.put("version", version);
                row.put("case", name.asText());
                row.put("target", target.get("name"));
                row.put("ok", detail == null);
                row.put("detail", detail);
                row.put("seconds", (System.nanoTime() - begun) / 1_000_000 / 1e3);
                System.out.println(JSON.writeValueAsString(row));
                System.out.flush();
            }
        }
    }

    static void is(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError("not so: " + what);
        }
    }

    static void same(Object found, Object wanted) {
        is(wanted.equals(found), found + " is " + wanted);
    }

    static void waits(List<String> retryAfter) {
        int wait = Integer.parseInt(retryAfter.get(0));
        is(wait > 0 && wait <= 60, "a wait of " + wait + " s");
    }

    static void until(double patienceS, BooleanSupplier done) throws InterruptedException {
        long deadline = System.nanoTime() + (long) (patienceS * 1e9);
        while (!done.getAsBoolean()) {
            is(System.nanoTime() < deadline, "done in time");
            Thread.sleep(200);
        }
    }

    static Object plain(JsonNode node) {
        return JSON.convertValue(node, Object.class);
    }

    private Running() {}
}

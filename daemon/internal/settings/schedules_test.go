package settings

import (
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/warrenmq/warren/consumer/schedule"
)

func TestSchedulesOfTheEnvironment(t *testing.T) {
	body := filepath.Join(t.TempDir(), "body.json")
	if err := os.WriteFile(body, []byte(`{"report": "daily"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	setenv(t,
		"WARREN_QUEUES=reports", "WARREN_QUEUE_REPORTS_PROCESSOR=log",
		"WARREN_SCHEDULES=nightly, clean-up",
		"WARREN_SCHEDULE_NIGHTLY_CRON=0 2 * * *", "WARREN_SCHEDULE_NIGHTLY_TZ=Europe/Berlin", "WARREN_SCHEDULE_NIGHTLY_QUEUE=reports",
		"WARREN_SCHEDULE_NIGHTLY_BODY_FILE="+body, "WARREN_SCHEDULE_NIGHTLY_MISFIRE=skip", "WARREN_SCHEDULE_NIGHTLY_JITTER=10m",
		`WARREN_SCHEDULE_NIGHTLY_HEADERS={"tenant": "a", "n": 5, "f": 0.5, "list": [1, true]}`, "WARREN_SCHEDULE_NIGHTLY_TYPE=report",
		"WARREN_SCHEDULE_CLEAN_UP_EVERY=30s", "WARREN_SCHEDULE_CLEAN_UP_QUEUE=elsewhere",
	)
	cfg, err := Load(program, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	want := []schedule.Schedule{{
		Name: "nightly", Cron: "0 2 * * *", TimeZone: "Europe/Berlin", Jitter: 10 * time.Minute, Misfire: "skip",
		Queue: "reports", Body: []byte(`{"report": "daily"}`), ContentType: "application/json", Type: "report",
		Headers:   map[string]any{"tenant": "a", "n": int64(5), "f": 0.5, "list": []any{int64(1), true}},
		EnvPrefix: "WARREN_SCHEDULE_NIGHTLY_",
	}, {
		Name: "clean-up", Every: 30 * time.Second, Misfire: "once", Queue: "elsewhere", Body: []byte{}, ContentType: "application/json",
		EnvPrefix: "WARREN_SCHEDULE_CLEAN_UP_",
	}}
	if got := cfg.Consumer.Schedules; !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestFaultsOfSchedulesInTheEnvironment(t *testing.T) {
	setenv(t,
		"WARREN_QUEUES=reports", "WARREN_QUEUE_REPORTS_PROCESSOR=log",
		"WARREN_SCHEDULES=a,a-b,a.b,a,bad name,none,both,headers",
		"WARREN_SCHEDULE_A_CRON=0 25 * * *", "WARREN_SCHEDULE_A_QUEUE=reports", "WARREN_SCHEDULE_A_QEUE=reports",
		"WARREN_SCHEDULE_A_B_EVERY=1s", "WARREN_SCHEDULE_A_B_QUEUE=reports",
		"WARREN_SCHEDULE_NONE_ONCE=true",
		"WARREN_SCHEDULE_BOTH_ONCE=true", "WARREN_SCHEDULE_BOTH_EVERY=1m", "WARREN_SCHEDULE_BOTH_QUEUE=reports",
		"WARREN_SCHEDULE_HEADERS_EVERY=1m", "WARREN_SCHEDULE_HEADERS_QUEUE=reports", `WARREN_SCHEDULE_HEADERS_HEADERS={"token": "hunter2"`,
	)
	_, err := Load(program, io.Discard)
	if err == nil {
		t.Fatal("got no error")
	}
	got := err.Error()
	for _, want := range []string{
		"the configuration has 8 faults",
		`WARREN_SCHEDULE_A_CRON is "0 25 * * *": `,
		"WARREN_SCHEDULE_A_QEUE is unknown; the nearest known name is WARREN_SCHEDULE_A_QUEUE",
		"schedule a-b and schedule a.b would share the variable WARREN_SCHEDULE_A_B_EVERY",
		"WARREN_SCHEDULES names the schedule a twice",
		`schedule "bad name" cannot have variables`,
		"WARREN_SCHEDULE_NONE_QUEUE must be set",
		"exactly one of WARREN_SCHEDULE_BOTH_EVERY",
		"WARREN_SCHEDULE_HEADERS_HEADERS: it must be a JSON object",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("got\n%s\nwant %q in it", got, want)
		}
	}
	if strings.Contains(got, "hunter2") {
		t.Errorf("the error shows a header:\n%s", got)
	}
}

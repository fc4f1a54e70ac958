package runner

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"reflect"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

func TestMessagesAreReadAndWrittenAsInOtherLanguages(t *testing.T) {
	text, err := os.ReadFile("../../vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Vectors []struct {
			Name, Message, Bytes string
			JSON                 json.RawMessage
			UnknownFields        bool `json:"unknown_fields"`
		}
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Vectors) == 0 {
		t.Fatal("there are no vectors")
	}
	for _, vector := range file.Vectors {
		vector := vector
		t.Run(vector.Name, func(t *testing.T) {
			kind, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(vector.Message))
			if err != nil {
				t.Fatal(err)
			}
			bytes, err := hex.DecodeString(vector.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			read := kind.New().Interface()
			if err := proto.Unmarshal(bytes, read); err != nil {
				t.Fatal(err)
			}
			expectBytes(t, read, vector.Bytes)
			asJSON, err := protojson.Marshal(read)
			if err != nil {
				t.Fatal(err)
			}
			if found, wanted := decoded(t, asJSON), decoded(t, vector.JSON); !reflect.DeepEqual(found, wanted) {
				t.Errorf("read as %v, not %v", found, wanted)
			}
			if vector.UnknownFields {
				return
			}
			made := kind.New().Interface()
			if err := protojson.Unmarshal(vector.JSON, made); err != nil {
				t.Fatal(err)
			}
			expectBytes(t, made, vector.Bytes)
		})
	}
}

func expectBytes(t *testing.T, message proto.Message, wanted string) {
	t.Helper()
	bytes, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	if found := hex.EncodeToString(bytes); found != wanted {
		t.Errorf("written as %s, not %s", found, wanted)
	}
}

func decoded(t *testing.T, text []byte) (value interface{}) {
	t.Helper()
	if err := json.Unmarshal(text, &value); err != nil {
		t.Fatal(err)
	}
	return value
}

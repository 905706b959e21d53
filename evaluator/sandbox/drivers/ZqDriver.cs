// Trusted driver for C# test code: entry point of the process (mcs -main:ZqDriver). The nonce is read before a class of
// the program is initialised and lives in a local variable only. Debug.Assert of the tests is compiled as
// global::ZqDriver.Assert: Debug is ignored by mono, and its listeners belong to the program.
public static class ZqDriver {
    sealed class Failed : System.Exception {
        public Failed(string message) : base(message) {}
    }

    public static void Assert(bool condition, params object[] message) {
        if (!condition) throw new Failed("assertion failed" + (message.Length > 0 ? ": " + message[0] : ""));
    }

    static int Main(string[] arguments) {
        var output = System.Console.OpenStandardOutput();
        var line = new byte[34];
        using (var input = System.Console.OpenStandardInput()) {
            int have = 1, got;
            while (have < 34 && (got = input.Read(line, have, 34 - have)) > 0) have += got;
        }
        if (line[33] != '\n') return 1;
        line[0] = (byte)'\n';
        try {
            ZQ_CALL_TESTS;
        } catch (System.Exception e) {
            System.Console.Error.WriteLine(e);
            System.Console.Error.Flush();
            return e is Failed ? 81 : 1;
        }
        output.Write(line, 0, line.Length);
        output.Flush();
        return 0;
    }
}

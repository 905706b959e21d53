<?php
// Trusted driver for PHP test code. The nonce is a local variable of a function that is still running while the program
// runs: PHP has no way to a caller's locals. Program and tests run in functions of their own whose variables are bound to
// the global ones, so that `global $x` of the program finds what its top level sets. The tests are in memory, their file
// is gone, before the program starts.
// assert of the tests: the built-in one can be switched off by the program, in the middle of the tests.
function ZQ_ASSERT(mixed $holds, mixed $why = null): bool
{
    return $holds ? true : throw ($why instanceof Throwable ? $why : new AssertionError((string) ($why ?? 'assert')));
}
(static function (): void {
    $in = fopen('php://stdin', 'rb');
    $nonce = rtrim((string) fgets($in, 64), "\n");
    fclose($in);
    $out = fopen('php://stdout', 'wb');
    $tests = (string) file_get_contents('tests.php');
    unlink('tests.php');
    if (strlen($nonce) !== 32) {
        exit(1);
    }
    $names = [];
    preg_match_all('/\$(?!this\b|GLOBALS\b|_[A-Z]+\b)([a-zA-Z_\x80-\xff][\w\x80-\xff]*)/', file_get_contents('program.php') . $tests, $names);
    $names = array_unique($names[1]);
    $execute = static function (): void {
        foreach (func_get_arg(1) as $zq_name) {
            ${$zq_name} = &$GLOBALS[$zq_name];
        }
        unset($zq_name);
        func_get_arg(0) === null ? include './program.php' : eval(func_get_arg(0));
    };
    try {
        $execute(null, $names);
        $phase = 'tests';
        if (ini_get('zend.assertions') !== '1' || ini_get('assert.exception') !== '1' || ini_get('assert.active') !== '1') {
            throw new Error('the program switched assertions off');
        }
        $execute($tests, $names);
    } catch (Throwable $error) {
        fwrite(STDERR, $error . "\n");
        $of_tests = get_class($error) === 'Exception' && str_contains($error->getFile(), "eval()'d code");
        exit($error instanceof AssertionError || $of_tests ? 81 : 1);
    }
    fwrite($out, "\n" . $nonce . "\n");
    fflush($out);
})();

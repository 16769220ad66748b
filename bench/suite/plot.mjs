export const draw = async () => '';
